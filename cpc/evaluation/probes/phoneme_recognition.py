"""A linear layer trained with CTC on frozen features, and its greedy decoding (Graves et al. 2006).

As in the code of Rivière et al. 2020 (CPC_audio) the layer sees 8 frames of 10 ms at once and moves by 4.
One frame at a time would have to tell, without its neighbours, where a phone begins: nearly all that such a layer
learns is to say nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from cpc.config import InputError
from cpc.evaluation.features import Features, FrameTable
from cpc.evaluation.phones import silent_classes
from cpc.evaluation.probes.dataset import hold_out, labelled
from cpc.evaluation.probes.mlp import EarlyStopping
from cpc.evaluation.probes.protocol import CTC_LR, CTC_STEP, ProbeSetup, Rows, make_result
from cpc.evaluation.results import ProbeResult
from cpc.seeding import derive, numpy_generator

BATCH = 16  # utterances
LEAST = 30  # steps between two validations on the held-out part: an epoch, but at least so many
MOST_ROUNDS = 200
MOST_STANDARDISED = 1000  # utterances, drawn from all, whose mean and deviation the features are standardised by

Phones = Int64[np.ndarray, " _"]


@dataclass(frozen=True)
class Sequences:
    """Utterances with frames and phones: their places in the table, and the phones of each, numbered from 1."""

    table: FrameTable
    places: list[int]
    phones: list[Phones]

    def __len__(self) -> int:
        return len(self.places)

    def take(self, chosen: list[int]) -> "Sequences":
        """Some of them."""
        return Sequences(self.table, [self.places[i] for i in chosen], [self.phones[i] for i in chosen])


@dataclass(frozen=True)
class SequenceClassifier:
    """Standardised frames → log probabilities of the blank (0) and the phones, and how it came to be.

    Shape:
        frames (frame, dim) → (output, class), with `outputs(frame)` outputs.
    """

    layer: nn.Conv1d
    mean: Float[Tensor, " dim"]
    deviation: Float[Tensor, " dim"]
    iterations: int
    converged: bool

    def __call__(self, frames: Sequence[Float[Tensor, "_ dim"]]) -> Float[Tensor, "batch output cls"]:
        """Utterances of any lengths; past the outputs of each, what comes out means nothing."""
        standard = [(each.to(self.mean.device) - self.mean) / self.deviation for each in frames]
        padded = rearrange(pad_sequence(standard, batch_first=True), "b t d -> b d t")
        missing = max(0, self.layer.kernel_size[0] - 2 * int(self.layer.padding[0]) - padded.shape[-1])
        logits: Tensor = self.layer(nn.functional.pad(padded, (0, missing)))
        return rearrange(logits, "b c t -> b t c").log_softmax(-1)

    def outputs(self, frames: int) -> int:
        """Number of outputs for so many frames: at least one."""
        kernel, stride, padding = self.layer.kernel_size[0], self.layer.stride[0], int(self.layer.padding[0])
        return max(1, (frames + 2 * padding - kernel) // stride + 1)

    @torch.inference_mode()
    def decode(self, frames: Float[Tensor, "frame dim"]) -> Phones:
        """The most probable class of each frame, repetitions as one, without blanks."""
        best = self([frames])[0, : self.outputs(len(frames))].argmax(-1).cpu().numpy()
        kept = best[np.flatnonzero(np.diff(best, prepend=-1))]
        return kept[kept > 0].astype(np.int64)


def fit_ctc(
    train: Sequences, held: Sequences, phones: int, hop: float, seed: int = 0, device: str = "cpu"
) -> SequenceClassifier:
    """Train on `train` until the CTC loss on `held` stops falling. The same seed gives the same classifier.

    `hop`: seconds from one frame to the next.
    """
    model = _untrained(train, phones, max(1, round(CTC_STEP / hop)), seed, device)
    optimiser = torch.optim.Adam(model.layer.parameters(), CTC_LR)
    stopping, steps, rounds = EarlyStopping(model.layer, optimiser, patience=2), max(LEAST, -(-len(train) // BATCH)), 0
    while rounds < MOST_ROUNDS and not stopping.over:
        for step in range(rounds * steps, (rounds + 1) * steps):
            batch = numpy_generator(seed, "ctc", "batch", step).integers(0, len(train), min(BATCH, len(train)))
            loss, count = _loss(model, train.take(batch.tolist()))
            optimiser.zero_grad()
            (loss / count).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        rounds += 1
        stopping.step(-_held_loss(model, held))
    stopping.restore()
    return replace(model, iterations=rounds * steps, converged=stopping.over)


def _untrained(train: Sequences, phones: int, step: int, seed: int, device: str) -> SequenceClassifier:
    drawn = numpy_generator(seed, "ctc", "standardise").permutation(len(train))[:MOST_STANDARDISED]
    x = torch.cat([train.table.utterance(train.places[i]) for i in np.sort(drawn).tolist()])
    mean, deviation = x.mean(0), x.std(0, unbiased=False)
    deviation = torch.where(deviation <= 1e-6 * (mean.abs() + 1e-6), torch.inf, deviation)  # a constant says nothing
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "ctc"))
        layer = nn.Conv1d(x.shape[1], phones + 1, 2 * step, stride=step, padding=step // 2)
    return SequenceClassifier(layer.to(device), mean.to(device), deviation.to(device), 0, False)


def _loss(model: SequenceClassifier, batch: Sequences) -> tuple[Float[Tensor, ""], int]:
    """Sum of the negative log probabilities of the phones, and how many phones they are.

    An utterance with fewer outputs than phones cannot be written by CTC and counts nothing.
    """
    frames = [batch.table.utterance(place) for place in batch.places]
    log_p = model(frames)
    lengths = torch.tensor([model.outputs(len(each)) for each in frames])
    targets = torch.from_numpy(np.concatenate(batch.phones))
    counts = torch.tensor([len(each) for each in batch.phones])
    loss = nn.functional.ctc_loss(
        log_p.transpose(0, 1), targets.to(log_p.device), lengths, counts, reduction="sum", zero_infinity=True
    )
    return loss, int(counts.sum())


@torch.inference_mode()
def _held_loss(model: SequenceClassifier, held: Sequences) -> float:
    """Loss per phone."""
    parts = [
        _loss(model, held.take(list(range(start, min(start + BATCH, len(held))))))
        for start in range(0, len(held), BATCH)
    ]
    return sum(float(loss) for loss, _ in parts) / sum(count for _, count in parts)


def edits(reference: Int64[np.ndarray, " phone"], found: Int64[np.ndarray, " found"]) -> int:
    """The smallest number of insertions, deletions and substitutions between the two."""
    from torchaudio.functional import edit_distance

    return int(edit_distance(reference.tolist(), found.tolist()))


# --- Phone error rate: a linear layer and CTC on frozen features, greedy decoding.


def evaluate_sequences(setup: ProbeSetup, features: Features, train: FrameTable, test: FrameTable) -> ProbeResult:
    """Train on the labelled utterances of the training split, decode the test split, count the edits.

    Hits are phones less edits (insertions, deletions, substitutions), so that accuracy is 1 − phone error rate.
    """
    rows, tested = setup.rows(setup.train), setup.rows(setup.test)
    learnt, evaluated = (sequences(setup, r, t) for r, t in ((rows, train), (tested, test)))
    kept = labelled("phone_sequence", setup.corpus, rows, setup.protocol.budget, setup.protocol.seed)
    learnt = learnt.take([i for i, place in enumerate(learnt.places) if kept[place]])
    held = hold_out("phone_sequence", setup.corpus, rows[learnt.places], tested, setup.protocol.seed)
    if not learnt.places or not evaluated.places or not held.out.any():
        counts = f"{len(learnt.places)} training and {len(evaluated.places)} test utterances have phones"
        raise InputError(f"phone_sequence probe: {counts}; it needs at least two to train on and one to test on")
    parts = [learnt.take(np.flatnonzero(mask).tolist()) for mask in (~held.out, held.out)]
    inventory = setup.corpus.labels(setup.labels).inventory
    hop = features.hop / features.sample_rate
    model = fit_ctc(parts[0], parts[1], len(inventory), hop, setup.protocol.seed, setup.device)
    num_correct, totals = np.zeros(len(tested), np.int64), np.zeros(len(tested), np.int64)
    for place, phones in zip(evaluated.places, evaluated.phones, strict=True):
        totals[place] = len(phones)
        num_correct[place] = len(phones) - edits(phones, model.decode(evaluated.table.utterance(place)))
    missing = len(tested) - len(evaluated.places)
    return make_result(
        setup, num_correct, totals,
        task="phone_sequence", features=features.name, majority=0.0,
        classes=len(np.unique(np.concatenate(parts[0].phones))),
        train_utterances=len(parts[0].places), train_examples=sum(map(len, parts[0].phones)),
        iterations=model.iterations, converged=model.converged,
        protocol=setup.protocol.sentence("phone_sequence", setup.labels, f"stopped early on {held.words}"),
        notes=(f"{missing} of {len(tested)} test utterances have no phones.",) if missing else (),
    )  # fmt: skip


def sequences(setup: ProbeSetup, rows: Rows, table: FrameTable) -> Sequences:
    """The phones of each utterance in order, without silences; utterances without phones or frames are skipped."""
    alignment = setup.corpus.labels(setup.labels)
    silent = np.array(silent_classes(alignment.inventory, alignment.silences), dtype=np.int64)
    places: list[int] = []
    phones: list[Int64[np.ndarray, " phone"]] = []
    for place, row in enumerate(rows.tolist()):
        id = setup.corpus.ids[row]
        labels = alignment.intervals(id).labels.astype(np.int64) if id in alignment else silent
        spoken = labels[~np.isin(labels, silent)] + 1
        if len(spoken) and table.counts[place]:
            places.append(place)
            phones.append(spoken)
    return Sequences(table, places, phones)
