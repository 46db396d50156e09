"""What the loss says about a trained model: accuracy against the horizon, and which frames surprise it."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from cpc.config import InputError, validate
from cpc.data.corpus import Corpus
from cpc.data.sampler import WindowConfig, WindowSampler, to_float
from cpc.evaluation.stats import bootstrap_interval
from cpc.losses.cpc import CPCLoss, CPCLossConfig
from cpc.losses.negatives import Grid
from cpc.losses.scores import Cosine
from cpc.losses.sharding import positives
from cpc.models.checkpoint import checkpoint_file, load, read_checkpoint
from cpc.models.cpc import CPC, Latents
from cpc.seeding import derive, torch_generator

Rows = Int64[np.ndarray, " _"]


class TrainedCPC(NamedTuple):
    """A model with the heads that it was trained with, and the windows that it was trained on."""

    model: CPC
    loss: CPCLoss
    windows: WindowConfig


def load_trained(path: Path | str, device: str | torch.device = "cpu") -> TrainedCPC:
    """All of a run folder or a checkpoint that the loss needs. Raises InputError if its weights do not fit."""
    model = load(path, device)
    header, tensors = read_checkpoint(checkpoint_file(path))
    if (kind := header["config"]["loss"].get("kind", "cpc")) != "cpc":
        raise InputError(f"{path}: was trained with loss.kind={kind}, which predicts nothing; this needs loss.kind=cpc")
    config = validate(CPCLossConfig, header["config"]["loss"])
    windows = {field.name: header["config"]["data"][field.name] for field in fields(WindowConfig)}
    loss = CPCLoss.build(config, model.dim, model.hidden)
    weights = {k.removeprefix("loss."): v for k, v in tensors.items() if k.startswith("loss.")}
    try:
        loss.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{path}: its heads do not fit its settings: {str(error).splitlines()[-1].strip()}") from None
    return TrainedCPC(model, loss.to(device).eval(), WindowConfig(**windows))


class Anchors(NamedTuple):
    """Loss of every anchor of every step, and whether its positive scored above all negatives."""

    loss: Float[Tensor, "step batch anchor"]
    correct: Bool[Tensor, "step batch anchor"]


def anchors(loss: CPCLoss, latents: Latents, generator: torch.Generator | None = None, still: bool = False) -> Anchors:
    """What `CPCLoss` takes the mean of. With `still`, W_k c_t is replaced by z_t itself, compared by its cosine.

    `still` is what predicts without having learnt anything: that the signal stays as it is.
    """
    found = list(loss.contrasts(latents, generator, still=still))
    return Anchors(torch.cat([some.loss for some in found]), torch.cat([some.correct for some in found]))


@dataclass(frozen=True)
class Horizon:
    """Prediction k = 1 … K steps ahead on some utterances (van den Oord 2018, figure 3).

    accuracy, low, high: share of anchors whose positive scored above all negatives, its 95% interval over utterances.
    still: the same if z_t itself is taken for the prediction. loss: nats. chance: 1/(1 + M). ceiling: ln(1 + M),
    which less the loss is a lower bound on the mutual information; NaN where the loss gives no such bound.
    """

    accuracy: Float64[np.ndarray, " step"]
    low: Float64[np.ndarray, " step"]
    high: Float64[np.ndarray, " step"]
    still: Float64[np.ndarray, " step"]
    loss: Float64[np.ndarray, " step"]
    chance: float
    ceiling: float
    hop_ms: float
    utterances: int


@torch.inference_mode()
def horizon(trained: TrainedCPC, corpus: Corpus, rows: Rows, batches: int = 32, seed: int = 0) -> Horizon:
    """Accuracy and loss at every step, on windows like those of training drawn from some rows of a corpus.

    Raises InputError if no row is as long as a window.
    """
    correct_of: dict[int, list[Tensor]] = defaultdict(list)
    still, losses, sizes = [], [], (0, 0)
    for number, drawn, latents in _batches(trained, corpus, rows, batches, seed):
        found, unlearnt = (
            anchors(trained.loss, latents, torch_generator(latents.z.device, seed, "horizon", number), flag)
            for flag in (False, True)  # the same negatives for both
        )
        losses.append(found.loss.double().mean((1, 2)).cpu())
        still.append(unlearnt.correct.double().mean((1, 2)).cpu())
        for row, correct in zip(drawn, found.correct.cpu().unbind(1), strict=True):
            correct_of[row].append(correct)
        sizes = len(drawn), latents.z.shape[1]
    return Horizon(
        **_with_interval(correct_of, seed),
        still=torch.stack(still).mean(0).numpy(),
        loss=torch.stack(losses).mean(0).numpy(),
        chance=trained.loss.chance(*sizes),
        ceiling=trained.loss.ceiling(*sizes) if trained.loss.bounds_information else math.nan,
        hop_ms=1000 * trained.model.hop / trained.model.sample_rate,
        utterances=len(correct_of),
    )


def _with_interval(correct_of: Mapping[int, list[Tensor]], seed: int) -> dict[str, Float64[np.ndarray, " step"]]:
    """Accuracy at every step and its interval, from what is correct (step, anchor) in each utterance's windows."""
    counts = np.stack([torch.cat(each, 1).sum(1).numpy() for each in correct_of.values()])  # (utterance, step)
    totals = np.array([sum(part.shape[1] for part in each) for each in correct_of.values()])
    limits = np.array([bootstrap_interval(hit, totals, seed=seed) for hit in counts.T])
    return {"accuracy": counts.sum(0) / totals.sum(), "low": limits[:, 0], "high": limits[:, 1]}


def _batches(
    trained: TrainedCPC, corpus: Corpus, rows: Rows, batches: int, seed: int
) -> Iterator[tuple[int, list[int], Latents]]:
    """The number of each batch, the rows of its windows, and their z and c."""
    windows = WindowSampler(corpus, rows, trained.windows, derive(seed, "horizon"))
    device = next(trained.model.parameters()).device
    for step in range(batches):
        yield step, windows.draw(step)[0].tolist(), trained.model(to_float(windows.read(step).to(device)))


@torch.inference_mode()
def surprise(
    trained: TrainedCPC, corpus: Corpus, row: int, others: Rows, draws: int = 8, seed: int = 0
) -> Float64[np.ndarray, "step frame"]:
    """How surprising each frame of an utterance is: its loss in nats when it is predicted from k frames before.

    Entry (k − 1, t) belongs to frame t, predicted from c_{t−k}; it is NaN where nothing precedes. Negatives come from
    the utterance and from `others`, as in training; the mean over several draws.

    Raises InputError if the utterance is too short to predict anything.
    """
    latents = _latents(trained.model, corpus, row)
    z, frames, steps = latents.z[0], latents.z.shape[1], trained.loss.prediction_steps
    if frames <= steps:
        raise InputError(
            f"id={corpus.ids[row]}: has {frames} frames, of which none can be predicted; take a longer one"
        )
    grid = Grid(min(trained.loss.group_size, trained.windows.batch_size), frames)
    keys = torch.cat([z, _pool(trained.model, corpus, others[others != row], (grid.sequences - 1) * frames, z)])[None]
    if isinstance(trained.loss.score, Cosine):
        windows = rearrange(keys, "1 (s t) d -> 1 s t d", t=frames)
        keys = rearrange(trained.loss.score.centred(windows), "1 s t d -> 1 (s t) d")
    predictions = trained.loss.predict(latents)
    found = np.full((steps, frames), np.nan)
    generator = torch_generator(z.device, seed, "surprise", row)
    for k in range(1, steps + 1):
        where = positives(1, frames - steps, frames, range(k, k + 1), z.device)
        drawn = [trained.loss.contrast(predictions[k - 1], keys, where, grid, generator).loss[0] for _ in range(draws)]
        found[k - 1, k : k + frames - steps] = torch.stack(drawn).double().mean(0).cpu().numpy()
    return found


def _latents(model: CPC, corpus: Corpus, row: int) -> Latents:
    audio = torch.from_numpy(np.array(corpus.waveform(row)))[None].to(next(model.parameters()).device)
    return model(to_float(audio))  # type: ignore[no-any-return] # nn.Module gives Any


def _pool(model: CPC, corpus: Corpus, others: Rows, count: int, z: Tensor) -> Float[Tensor, "frame dim"]:
    """So many frames of other utterances, in their order; they repeat if there are too few."""
    found: list[Tensor] = []
    for row in others.tolist():
        if sum(map(len, found)) >= count:
            break
        if model.frames(int(corpus.samples[row])) > 0:
            found.append(_latents(model, corpus, row).z[0])
    frames = torch.cat(found) if found else z
    return frames.repeat(-(-count // max(1, len(frames))), 1)[:count]
