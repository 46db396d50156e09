"""One vector for each utterance, and how alike two of them are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from cpc.data.corpus import Corpus
from cpc.evaluation.abx.items import corpus_banks
from cpc.evaluation.features import Features, Layer
from cpc.evaluation.probes.protocol import REPLICATES
from cpc.evaluation.results import Identity, Saved, joined, slug
from cpc.evaluation.stats import percentiles, resamplings
from cpc.evaluation.verification.trials import MOST, Trials

_AT_ONCE = 1 << 25  # samples whose frames are held at once: 35 minutes, 0.4 GiB of frames of 512 numbers

Rows = Int64[np.ndarray, " utterance"]
Vectors = Float64[np.ndarray, "utterance dim"]


def embeddings(
    group: Sequence[Features], corpus: Corpus, rows: Rows, *, device: str = "cpu", progress: bool = False
) -> list[Vectors]:
    """A vector for each of the rows, for each of the features: the mean of its frames, or what a layer's pooling makes.

    The layers of one model come out of one pass over the audio. Every row must have a frame.
    """
    found = [np.empty((len(rows), 0)) for _ in group]
    for places in _blocks(corpus.samples[rows]):
        banks = corpus_banks(group, corpus, rows[places], device=device, progress=progress)
        for number, bank in enumerate(banks):
            vectors = np.stack([_vector(group[number], bank.table.utterance(i)) for i in range(len(places))])
            if not found[number].size:
                found[number] = np.empty((len(rows), vectors.shape[1]))
            found[number][places] = vectors
    return found


@torch.inference_mode()
def _vector(features: Features, frames: Float32[Tensor, "frame dim"]) -> Float64[np.ndarray, " dim"]:
    pooling = features.pooling if isinstance(features, Layer) else None
    if pooling is None:
        mean: Float64[np.ndarray, " dim"] = frames.double().mean(0).numpy()
        return mean
    device = next(pooling.parameters()).device
    return np.asarray(pooling(frames[None].to(device))[0].double().cpu())


def cosines(
    vectors: Vectors, rows: Rows, train: Int64[np.ndarray, " train"], trials: Trials
) -> Float64[np.ndarray, " trial"]:
    """The cosine of the two vectors of each trial, after the mean of the training rows was taken from all.

    `rows` says, sorted, whose vectors they are. A vector equal to the mean has no direction: its cosines are 0.
    """
    centred = vectors - vectors[np.searchsorted(rows, train)].mean(0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = centred / np.where(lengths > 0, lengths, 1)
    one, other = (unit[np.searchsorted(rows, side)] for side in (trials.first, trials.second))
    alike: Float64[np.ndarray, " trial"] = np.einsum("td,td->t", one, other)
    return alike


def _blocks(samples: Rows) -> Iterator[Int64[np.ndarray, " block"]]:
    """Places of utterances of similar length, so many at once that their frames take bounded memory."""
    order = np.argsort(samples, kind="stable")
    block = np.cumsum(samples[order]) // _AT_ONCE
    yield from np.split(order, np.flatnonzero(np.diff(block)) + 1)


# --- From scores to error rates: EER and minimum detection cost, with intervals over speakers.


PRIORS = (0.05, 0.01)  # of a target: that of VoxSRC, and the one that NIST's plans and Kaldi's recipes have
_VALUES_AT_ONCE = 1 << 16  # of resampled weights: half a MiB, which the cache of a processor holds

Scores = Float[np.ndarray, " trial"]
Target = Bool[np.ndarray, " trial"]
Rates = Float64[np.ndarray, "*draw point"]
Each = Float64[np.ndarray, "*draw"]


class Estimate(NamedTuple):
    """A number and its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """EER, 0 to 1, and the minimum cost for each prior of a target."""

    eer: Estimate
    min_dcf: Mapping[float, Estimate]


def detection_errors(
    scores: Scores, target: Target, weights: Float[np.ndarray, " trial"] | None = None
) -> tuple[Rates, Rates]:
    """Shares of false alarms and of misses, from the threshold that accepts all trials to the one that rejects all."""
    from sklearn.metrics import det_curve

    false_alarm, miss, _ = det_curve(target, scores, sample_weight=weights)
    return np.concatenate([[1.0], false_alarm, [0.0]]), np.concatenate([[0.0], miss, [1.0]])


def equal_error_rate(false_alarm: Rates, miss: Rates) -> Each:
    """Where false alarms and misses are equally frequent, on the straight line between the two nearest thresholds.

    The points are in the order of rising thresholds, for one list of trials or for each of several draws.
    """
    apart = false_alarm - miss
    after = np.argmax(apart <= 0, axis=-1)[..., None]  # never the first point, which accepts all
    ahead, behind = (np.take_along_axis(apart, place, -1) for place in (after - 1, after))
    left, right = (np.take_along_axis(miss, place, -1) for place in (after - 1, after))
    rate: Each = (left + ahead / (ahead - behind) * (right - left))[..., 0]
    return rate


def min_cost(false_alarm: Rates, miss: Rates, prior: float) -> Each:
    """The least expected cost over all thresholds, divided by that of the better of accepting or rejecting all.

    A miss and a false alarm cost 1 each. So minDCF = min (P · miss + (1 − P) · false alarm) / min(P, 1 − P), at most
    1: the detection cost of NIST's speaker recognition evaluations (their plans of 2008 and 2010, with other costs
    and priors; van Leeuwen & Brümmer 2007).
    """
    costs = prior * miss + (1 - prior) * false_alarm
    least: Each = np.asarray(costs.min(-1) / min(prior, 1 - prior))
    return least


def summarise(
    scores: Scores,
    target: Target,
    speakers: Int64[np.ndarray, "2 trial"],
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Summary:
    """EER and minimum costs of a list of trials, with percentile intervals over speakers.

    Speakers are drawn with replacement. A target trial then counts as often as its speaker was drawn, a non-target
    trial as often as the product of its two speakers' counts: trials that share a speaker vary together, on either
    side of the pair (Owen 2007, the pigeonhole bootstrap; Poh, Martin & Bengio 2007 draw users, too). Draws without
    any trial of one of the kinds are left out; with two speakers that is every second one. A draw has fewer different
    speakers, for which a threshold fits better by chance: intervals of minimum costs reach further down than up.
    """
    errors = detection_errors(scores, target)
    draws = [_measures(*drawn) for drawn in _Resampled(scores, target, speakers).curves(replicates, seed)]
    found = [
        Estimate(float(value), *percentiles(column))
        for value, column in zip(_measures(*errors), np.concatenate(draws, axis=1), strict=True)
    ]
    return Summary(found[0], dict(zip(PRIORS, found[1:], strict=True)))


def _measures(false_alarm: Rates, miss: Rates) -> Float64[np.ndarray, "measure *draw"]:
    return np.stack([equal_error_rate(false_alarm, miss), *(min_cost(false_alarm, miss, prior) for prior in PRIORS)])


class _Resampled:
    """What `detection_errors` gives, for many weightings of the same trials: they are sorted once."""

    def __init__(self, scores: Scores, target: Target, speakers: Int64[np.ndarray, "2 trial"]) -> None:
        order = np.argsort(scores, kind="stable")
        self.target = target[order]
        self.speakers = np.unique(speakers[:, order], return_inverse=True)[1].reshape(2, -1)
        self.last = np.flatnonzero(np.diff(scores[order], append=np.inf))  # of each score, where several are equal

    def curves(self, replicates: int, seed: int) -> Iterator[tuple[Rates, Rates]]:
        """Shares of false alarms and of misses, some draws at a time, without those that lack one kind of trials."""
        size = max(1, _VALUES_AT_ONCE // len(self.target))
        for block in resamplings(int(self.speakers.max()) + 1, replicates, seed):
            for start in range(0, len(block), size):
                yield self._curve(block[start : start + size].astype(np.float64))

    def _curve(self, drawn: Float64[np.ndarray, "draw speaker"]) -> tuple[Rates, Rates]:
        first = drawn[:, self.speakers[0]]
        rejected = np.cumsum(np.where(self.target, first, 0), axis=1)
        passed = np.cumsum(np.where(self.target, 0, first * drawn[:, self.speakers[1]]), axis=1)
        both = (rejected[:, -1] > 0) & (passed[:, -1] > 0)
        shares = []
        for counts in (passed[both], rejected[both]):
            below = np.concatenate([np.zeros((len(counts), 1)), counts[:, self.last]], axis=1)
            shares.append(below / counts[:, -1:])
        return 1 - shares[0], shares[1]


# --- The result of speaker verification: error rates, their intervals, and the conditions that give them their meaning.


@dataclass(frozen=True)
class VerificationResult(Saved):
    """How well cosines of features tell whether two utterances are by one speaker.

    eer: the rate at which false alarms and misses are equally frequent, with its 95% interval over speakers, 0 to 1;
        0.5 is chance.
    min_dcf: prior of a target → minimum detection cost with its interval; 1 is what deciding without listening costs.
    train: the split whose mean was taken from all vectors; test: the split, or the file, that the trials are from.
    listed: whether the trials are those of a file; other_chapters, most, seed: how they were drawn where not.
    targets, non_targets, speakers, utterances: how many there are in the trials.
    protocol: how it was measured, in one sentence; notes: what a reader has to know before comparing it.
    fingerprint: of the trials and the audio, and subject: of features whose name does not say all, such as random
        weights; both are empty in results of older versions.
    """

    KIND: ClassVar[str] = "verification result"

    features: str
    eer: Estimate
    min_dcf: Mapping[str, Estimate]
    targets: int
    non_targets: int
    speakers: int
    utterances: int
    corpus: str
    train: str
    test: str
    listed: bool
    other_chapters: bool
    most: int
    seed: int
    protocol: str
    notes: tuple[str, ...] = ()
    fingerprint: str = ""
    subject: str = ""

    @property
    def slug(self) -> str:
        """The features' name in the letters of a metric or a file: "CPC z" is cpc_z, "log-mel" is logmel."""
        return slug(self.features)

    @property
    def task(self) -> str:
        """eer, and whatever differs from the usual: numbers of different lists of trials never share a name."""
        parts = ["eer"]
        parts += ["listed"] if self.listed else []
        parts += ["other_chapters"] if self.other_chapters else []
        parts += [f"most_{self.most}"] if self.most != MOST else []
        parts += [f"seed_{self.seed}"] if self.seed else []
        return "-".join(parts)

    @property
    def identity(self) -> Identity:
        """Of the split, or of the list of trials."""
        train = "" if self.train == "speaker_train" else f"from_{Path(self.train).stem}"
        where = joined(Path(self.test).stem, self.corpus, train, self.fingerprint)
        return Identity("verification", self.task, where, joined(self.slug, self.subject))

    def _plain(self) -> dict[str, Any]:
        return {"eer": list(self.eer), "min_dcf": {prior: list(cost) for prior, cost in self.min_dcf.items()}}

    @classmethod
    def _typed(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        costs = {prior: Estimate(*cost) for prior, cost in values["min_dcf"].items()}
        return {"eer": Estimate(*values["eer"]), "min_dcf": costs}
