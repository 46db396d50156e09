"""Frozen features of many utterances, in padded batches, equal to those of each utterance alone.

One utterance at a time is slow for two reasons: batches of one, and a new shape at nearly every call, for
which the convolutions are planned anew. Here utterances of similar length share a batch, and lengths are
rounded up to eight shapes an octave, so that padding adds less than an eighth to the samples of all but the
shortest utterances.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int, Int64
from torch import Tensor, nn

from cpc.config import InputError, dump
from cpc.corpus.corpus import Corpus
from cpc.corpus.progress import show_progress
from cpc.distributed import keep_freed_memory
from cpc.model import CPC

LayerName = Literal["z", "c"]
BATCH_SAMPLES = 1 << 20  # 66 s at 16 kHz: keeps the cores busy, and a 512-channel encoder within about 2 GiB
_SHORTEST = 1 << 13  # samples; all utterances below it share one shape

Rows = Int64[np.ndarray, " utterance"]
Batch = Callable[[Tensor, Tensor], Mapping[str, Tensor]]  # (waveform, lengths) → name → (batch, frame, dim)


@runtime_checkable
class Features(Protocol):
    """What a probe judges: vectors at known times. `cpc.nn.frontends` and `Layer` are such."""

    @property
    def name(self) -> str: ...
    @property
    def hop(self) -> int: ...
    @property
    def sample_rate(self) -> int: ...
    @property
    def settings(self) -> Mapping[str, object]:
        """All that determines the features, as plain values: the key of a cached result."""
        ...

    def frames(self, n_samples: int, /) -> int: ...
    def frame_centres(self, n_frames: int, /) -> Float64[np.ndarray, " frame"]: ...
    def __call__(
        self, waveform: Float[Tensor, "batch sample"], lengths: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch frame dim"]: ...


@dataclass(frozen=True)
class Layer:
    """One layer of a CPC model as features: z of the encoder or c of the context network.

    `origin` comes first in its name: "CPC z", "random c".
    """

    model: CPC
    layer: LayerName
    origin: str = "CPC"

    @property
    def name(self) -> str:
        return f"{self.origin} {self.layer}"

    @property
    def hop(self) -> int:
        return self.model.hop

    @property
    def sample_rate(self) -> int:
        return self.model.sample_rate

    @property
    def settings(self) -> Mapping[str, object]:
        return {"model": dump(self.model.config), "weights": _weights_digest(self.model), "layer": self.layer}

    def frames(self, n_samples: int) -> int:
        return self.model.frames(n_samples)

    def frame_centres(self, n_frames: int) -> Float64[np.ndarray, " frame"]:
        return self.model.frame_centres(n_frames)

    def __call__(
        self, waveform: Float[Tensor, "batch sample"], lengths: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch frame dim"]:
        latents: Tensor = getattr(self.model(waveform, lengths), self.layer)
        return latents


def _weights_digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode() + weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class FrameTable:
    """Frames of several utterances, one after the other: utterance i owns offsets[i] … offsets[i + 1] − 1."""

    frames: Float32[Tensor, "frame dim"]
    offsets: Int64[np.ndarray, " bound"]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> Int64[np.ndarray, " utterance"]:
        """Number of frames of each utterance."""
        return np.diff(self.offsets)

    def utterance(self, i: int) -> Float32[Tensor, "frame dim"]:
        return self.frames[self.offsets[i] : self.offsets[i + 1]]


def extract(
    model: CPC,
    corpus: Corpus,
    rows: Rows,
    layers: Sequence[LayerName] = ("z", "c"),
    *,
    batch_samples: int = BATCH_SAMPLES,
    progress: bool = False,
    name: str = "CPC",
) -> dict[LayerName, FrameTable]:
    """The layers of a model for some rows of a corpus, in the order of the rows, from one pass over the
    audio.

    Runs on the model's device in its own precision (float32 unless the caller opens an autocast), in
    inference mode and evaluation mode; the tables are float32 on the CPU. An utterance too short for one
    frame has none.
    """

    def forward(waveform: Tensor, lengths: Tensor) -> Mapping[str, Tensor]:
        latents = model(waveform, lengths)
        return {layer: getattr(latents, layer) for layer in layers}

    plan = _Plan(Layer(model, layers[0], name), corpus, rows, batch_samples, progress)
    with _evaluating(model):
        tables = _fill(forward, plan, next(model.parameters()).device)
    return {layer: tables[layer] for layer in layers}


def extract_features(
    features: Features,
    corpus: Corpus,
    rows: Rows,
    *,
    device: str | torch.device = "cpu",
    batch_samples: int = BATCH_SAMPLES,
    progress: bool = False,
) -> FrameTable:
    """The same for any features; those that are not a `Layer` take their waveforms on `device`."""
    if isinstance(features, Layer):
        layers = (features.layer,)
        return extract(features.model, corpus, rows, layers, batch_samples=batch_samples, progress=progress)[
            features.layer
        ]
    plan = _Plan(features, corpus, rows, batch_samples, progress)
    return _fill(lambda waveform, lengths: {"": features(waveform, lengths)}, plan, torch.device(device))[""]


@dataclass(frozen=True)
class _Plan:
    """Which utterances go into which batch."""

    features: Features
    corpus: Corpus
    rows: Rows
    batch_samples: int
    progress: bool

    def __post_init__(self) -> None:
        wanted, held = self.features.sample_rate, self.corpus.sample_rate
        if wanted != held:
            rule = f"has {held} Hz where {self.features.name} needs {wanted}; pack it at that rate"
            raise InputError(f"corpus={self.corpus.path}: {rule}")

    @property
    def samples(self) -> Int64[np.ndarray, " utterance"]:
        samples: Int64[np.ndarray, " utterance"] = self.corpus.samples[self.rows]
        return samples

    def batches(self) -> Iterator[tuple[Int64[np.ndarray, " batch"], int]]:
        """Places in `rows` and padded length of each batch, longest first, where memory is at its highest."""
        padded = np.array([_rounded_up(int(n)) for n in self.samples], dtype=np.int64)
        for length in np.unique(padded)[::-1].tolist():
            places = np.flatnonzero(padded == length)
            size = max(1, self.batch_samples // length)
            yield from ((places[start : start + size], length) for start in range(0, len(places), size))

    def waveform(self, places: Int64[np.ndarray, " batch"], length: int) -> Float32[Tensor, "batch sample"]:
        """Zero-padded audio in [−1, 1)."""
        pcm = np.zeros((len(places), length), np.int16)
        for line, row in zip(pcm, self.rows[places].tolist(), strict=True):
            line[: self.corpus.samples[row]] = self.corpus.waveform(row)
        return torch.from_numpy(pcm).float() / 2**15


def _rounded_up(samples: int) -> int:
    """The next of the lengths k · 2^j with k = 8 … 15: less than an eighth more."""
    samples = max(samples, _SHORTEST)
    step = 1 << (samples.bit_length() - 4)
    return -(-samples // step) * step


@torch.inference_mode()
def _fill(forward: Batch, plan: _Plan, device: torch.device) -> dict[str, FrameTable]:
    keep_freed_memory(device)
    counts = np.array([plan.features.frames(int(n)) for n in plan.samples], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    frames: dict[str, Tensor] = {}
    with show_progress(
        f"features: {plan.features.name}", len(plan.rows), plan.corpus.sample_rate, plan.progress
    ) as bar:
        for places, length in plan.batches():
            lengths = torch.from_numpy(plan.samples[places]).to(device)
            for name, batch in forward(plan.waveform(places, length).to(device), lengths).items():
                table = frames.setdefault(name, torch.empty(int(offsets[-1]), batch.shape[-1]))
                for place, own in zip(places.tolist(), batch.float().cpu(), strict=True):
                    table[offsets[place] : offsets[place + 1]] = own[: counts[place]]
            for n in plan.samples[places].tolist():
                bar.tick(n)
    return {name: FrameTable(table, offsets) for name, table in frames.items()}


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and the mode that was before afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
