"""What can be taken from a model as features: z, c, a layer of the context network below c, or several side by side."""

import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypedDict, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int, Int64
from torch import Tensor, nn

from cpc.config import InputError, dump
from cpc.data.corpus import Corpus
from cpc.data.progress import show_progress
from cpc.device import tf32
from cpc.evaluation.embed.inputs import batches, evaluating, release_memory
from cpc.io import DiskFull, locked, write_json
from cpc.models.cpc import CPC
from cpc.models.pooling import Pooling

LayerName = str  # z, c, c1, c2 … (the context network's layers from below), or a sum such as z+c
Waveform = Float[Tensor, "batch sample"]
Lengths = Int[Tensor, " batch"]


@dataclass(frozen=True)
class Layer:
    """A layer of a CPC model as features. `origin` comes first in its name: "CPC z", "random c", "CPC z+c".

    `pooling`: how its frames become one vector where one is asked for, as it was trained; without it, their mean.
    Raises InputError for a layer that the model does not have.
    """

    model: CPC
    layer: LayerName
    origin: str = "CPC"
    pooling: Pooling | None = None

    def __post_init__(self) -> None:
        check_layer(self.model, self.layer)

    @property
    def name(self) -> str:
        return f"{self.origin} {self.layer}" + (", pooled" if self.pooling else "")

    @property
    def hop(self) -> int:
        return self.model.hop

    @property
    def sample_rate(self) -> int:
        return self.model.sample_rate

    @property
    def settings(self) -> Mapping[str, object]:
        architecture = {name: value for name, value in dump(self.model.config).items() if name != "init"}
        facts = {"model": architecture, "weights": _weights_digest(self.model), "layer": self.layer}
        return facts | ({"pooling": _weights_digest(self.pooling)} if self.pooling else {})

    def frames(self, n_samples: int) -> int:
        return self.model.frames(n_samples)

    def frame_centres(self, n_frames: int) -> Float64[np.ndarray, " frame"]:
        return self.model.frame_centres(n_frames)

    def __call__(self, waveform: Waveform, lengths: Lengths | None = None) -> Float[Tensor, "batch frame dim"]:
        return layers_of(self.model, waveform, lengths, [self.layer])[self.layer]


def check_layer(model: CPC, layer: LayerName) -> None:
    """Raise InputError unless every part of `layer` is one of the model's."""
    known = ["z", "c", *(f"c{number}" for number in range(1, model.context.depth + 1))]
    if unknown := [part for part in layer.split("+") if part not in known]:
        rule = f"the model has {', '.join(known)}, and sums of these such as z+c (side by side)"
        raise InputError(f"layer={layer}: {unknown[0] or 'an empty name'} is not a layer; {rule}")


def layers_of(
    model: CPC, waveform: Waveform, lengths: Lengths | None, layers: Sequence[LayerName]
) -> dict[LayerName, Float[Tensor, "batch frame _"]]:
    """Several layers from one pass over the audio: the encoder runs once, whatever is asked for."""
    latents = model(waveform, lengths)
    parts: dict[str, Tensor] = {"z": latents.z, "c": latents.c}
    for part in {part for layer in layers for part in layer.split("+")} - parts.keys():
        parts[part] = model.context.layer_output(latents.z, int(part.removeprefix("c")))
    return {layer: torch.cat([parts[part] for part in layer.split("+")], dim=-1) for layer in layers}


def _weights_digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode() + weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


# --- Frozen features of many utterances, in padded batches, equal to those of each utterance alone.


__all__ = ["Features", "FrameTable", "Layer", "LayerName", "extract", "extract_features", "extract_group"]
BATCH_SAMPLES = 1 << 20  # 66 s at 16 kHz: keeps the cores busy, and a 512-channel encoder within about 2 GiB
_SHORTEST = 1 << 13  # samples; all utterances below it share one shape

Rows = Int64[np.ndarray, " _"]
Batch = Callable[[Tensor, Tensor], Mapping[str, Tensor]]  # (waveform, lengths) → name → (batch, frame, dim)


@runtime_checkable
class Features(Protocol):
    """What a probe evaluates: vectors at known times. `cpc.audio.mfcc` and `Layer` are such."""

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

    @property
    def owners(self) -> Int64[np.ndarray, " frame"]:
        """The utterance of each frame."""
        return np.repeat(np.arange(len(self)), self.counts)

    def take(self, places: Int64[np.ndarray, " kept"]) -> "FrameTable":
        """A table of some of the utterances, in the order of `places`; the frames are copied."""
        chosen = [self.utterance(place) for place in places.tolist()]
        offsets = np.concatenate([[0], np.cumsum(self.counts[places])])
        return FrameTable(torch.cat(chosen) if chosen else self.frames[:0], offsets)


def extract(
    model: CPC,
    corpus: Corpus,
    rows: Rows,
    layers: Sequence[LayerName] = ("z", "c"),
    *,
    last_of: int | None = None,
    batch_samples: int = BATCH_SAMPLES,
    progress: bool = False,
    name: str = "CPC",
) -> dict[LayerName, FrameTable]:
    """The layers of a model for some rows of a corpus, in the order of the rows, from one pass over the audio.

    With `last_of`, every utterance is cut into windows of so many samples, each goes through the model alone, and
    the table holds the last frame of each; what is left over at the end is dropped, and an utterance shorter than
    a window is one window.

    Runs on the model's device in its own precision (float32 unless the caller opens an autocast), in inference mode
    and evaluation mode; the tables are float32 on the CPU. An utterance too short for one frame has none.
    """

    def forward(waveform: Tensor, lengths: Tensor) -> Mapping[str, Tensor]:
        return layers_of(model, waveform, lengths, layers)

    features = Layer(model, layers[0], name)
    for layer in layers:
        check_layer(model, layer)
    plan = _plan(features, corpus, rows, last_of, batch_samples, progress)
    with tf32(False), evaluating(model):  # probes of a GPU and of a CPU read the same features
        tables = _fill(forward, plan, next(model.parameters()).device)
    return {layer: _windowed(tables[layer], plan, len(rows), last_of) for layer in layers}


def extract_features(
    features: Features,
    corpus: Corpus,
    rows: Rows,
    *,
    last_of: int | None = None,
    device: str | torch.device = "cpu",
    batch_samples: int = BATCH_SAMPLES,
    progress: bool = False,
) -> FrameTable:
    """The same for any features; those that are not a `Layer` take their waveforms on `device`."""
    if isinstance(features, Layer):
        layer, name = features.layer, features.origin
        return extract(
            features.model, corpus, rows, [layer],
            last_of=last_of, batch_samples=batch_samples, progress=progress, name=name,
        )[layer]  # fmt: skip
    plan = _plan(features, corpus, rows, last_of, batch_samples, progress)
    table = _fill(lambda waveform, lengths: {"": features(waveform, lengths)}, plan, torch.device(device))[""]
    return _windowed(table, plan, len(rows), last_of)


class Extraction(TypedDict, total=False):
    """How features are taken from audio, for whoever hands it on to `extract_group`."""

    device: str
    progress: bool
    cache: Path | None


def extract_group(
    group: Sequence[Features],
    corpus: Corpus,
    rows: Rows,
    *,
    last_of: int | None = None,
    device: str | torch.device = "cpu",
    progress: bool = False,
    cache: Path | None = None,
) -> list[FrameTable]:
    """A table for each of several features; the layers of one model come out of one pass over the audio.

    With a folder `cache`, utterances that were there before are read from it, and the others kept in it.
    """

    def compute(places: Sequence[int]) -> list[FrameTable]:
        some, layers, first = rows[places], [each for each in group if isinstance(each, Layer)], group[0]
        if isinstance(first, Layer) and len(layers) == len(group):
            names = [each.layer for each in layers]
            found = extract(first.model, corpus, some, names, last_of=last_of, progress=progress, name=first.origin)
            return [found[name] for name in names]
        return [
            extract_features(each, corpus, some, last_of=last_of, device=device, progress=progress) for each in group
        ]

    if cache is None:
        return compute(range(len(rows)))
    keys = [_cache_key(features, corpus, last_of, device) for features in group]
    return FeatureCache(cache, MOST_BYTES).tables(keys, [corpus.ids[row] for row in rows.tolist()], compute)


def _cache_key(features: Features, corpus: Corpus, last_of: int | None, device: str | torch.device) -> str:
    subject, kind = {"name": features.name, **features.settings}, torch.device(device).type
    facts = {"version": CACHE_VERSION, "subject": subject, "corpus": corpus.digest, "window": last_of, "device": kind}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class _Plan:
    """Which pieces of which utterances go into which batch: piece i begins at starts[i] of row rows[i]."""

    features: Features
    corpus: Corpus
    rows: Int64[np.ndarray, " piece"]
    starts: Int64[np.ndarray, " piece"]
    samples: Int64[np.ndarray, " piece"]
    owners: Int64[np.ndarray, " piece"]
    batch_samples: int
    progress: bool

    def batches(self) -> Iterator[tuple[Int64[np.ndarray, " batch"], int]]:
        """Pieces and padded length of each batch."""
        return batches(self.samples, _SHORTEST, self.batch_samples)

    def waveform(self, places: Int64[np.ndarray, " batch"], length: int) -> Float32[Tensor, "batch sample"]:
        """Zero-padded audio in [−1, 1)."""
        pcm = np.zeros((len(places), length), np.int16)
        for line, place in zip(pcm, places.tolist(), strict=True):
            start, n = int(self.starts[place]), int(self.samples[place])
            line[:n] = self.corpus.waveform(int(self.rows[place]), start, start + n)
        return torch.from_numpy(pcm).float() / 2**15


def _plan(
    features: Features, corpus: Corpus, rows: Rows, window: int | None, batch_samples: int, progress: bool
) -> _Plan:
    if features.sample_rate != corpus.sample_rate:
        rule = f"has {corpus.sample_rate} Hz where {features.name} needs {features.sample_rate}; pack it at that rate"
        raise InputError(f"corpus={corpus.path}: {rule}")
    lengths = corpus.samples[rows]
    counts = np.ones_like(lengths) if window is None else np.maximum(1, lengths // window)
    owners = np.repeat(np.arange(len(rows)), counts)
    number = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)  # of the piece in its utterance
    samples = lengths[owners] if window is None else np.minimum(lengths[owners], window)
    return _Plan(features, corpus, rows[owners], number * (window or 0), samples, owners, batch_samples, progress)


def _windowed(table: FrameTable, plan: _Plan, utterances: int, window: int | None) -> FrameTable:
    """One entry an utterance: all its frames, or the last frame of each of its windows."""
    if window is None:
        return table
    kept = np.flatnonzero(table.counts)
    last = torch.from_numpy(table.offsets[kept + 1] - 1)
    counts = np.bincount(plan.owners[kept], minlength=utterances)
    return FrameTable(table.frames[last], np.concatenate([[0], np.cumsum(counts)]))


@torch.inference_mode()
def _fill(forward: Batch, plan: _Plan, device: torch.device) -> dict[str, FrameTable]:
    counts = np.array([plan.features.frames(int(n)) for n in plan.samples], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    frames: dict[str, Tensor] = {}
    with show_progress(
        f"features: {plan.features.name}", len(plan.rows), plan.corpus.sample_rate, plan.progress
    ) as bar:
        octave = 0
        for places, length in plan.batches():
            if length.bit_length() != octave:
                release_memory(device)
                octave = length.bit_length()
            lengths = torch.from_numpy(plan.samples[places]).to(device)
            for name, batch in forward(plan.waveform(places, length).to(device), lengths).items():
                table = frames.setdefault(name, torch.empty(int(offsets[-1]), batch.shape[-1]))
                for place, own in zip(places.tolist(), batch.float().cpu(), strict=True):
                    table[offsets[place] : offsets[place + 1]] = own[: counts[place]]
            for n in plan.samples[places].tolist():
                bar.tick(n)
    release_memory(device)
    return {name: FrameTable(table, offsets) for name, table in frames.items()}


# --- Frames that were computed before.


CACHE_VERSION = 1  # part of every key: raise it when a change of code changes any number
MOST_BYTES = 8 << 30  # four hours at 100 Hz in 1,490 float32 channels: MFCC, log-mel, and z and c of two models


@dataclass(frozen=True)
class FeatureCache:
    """Frames on disk, by utterance: what one evaluation took from the audio, the next one reads.

    A probe of phones, one of speakers and ABX look at the same frames through other splits. Each of the features has
    a file of frames and an index of utterances beside it:

        FOLDER/KEY.frames    float32, frame by frame, utterance by utterance in the order in which they came
        FOLDER/KEY.json      {"version": 1, "dim": D, "utterances": {id: [first frame, number of frames]}}

    Frames are appended before the index is replaced, so that whoever is killed leaves a cache that is whole. Where all
    would take more than `most_bytes`, or more than half of what is free, features that were used longest ago go first,
    and what does not fit then is not kept.
    """

    folder: Path
    most_bytes: int

    def tables(
        self, keys: Sequence[str], ids: Sequence[str], compute: Callable[[Sequence[int]], list[FrameTable]]
    ) -> list[FrameTable]:
        """A table of the utterances `ids` for each of the features.

        `compute` gives all of them for the utterances at some places: those that any of the features lacks, because
        the layers of a model share a pass over the audio.
        """
        try:
            with self._lock():  # a file that goes afterwards is still read: it is open
                known = [_Known.open(self.folder / key) for key in keys]
        except (DiskFull, OSError) as error:
            self._warn(error)
            return compute(range(len(ids)))
        missing = [i for i, id in enumerate(ids) if any(id not in own.utterances for own in known)]
        new = compute(missing) if missing else []
        tables = (
            new
            if len(missing) == len(ids)
            else [own.with_rows(ids, missing, new[number] if new else None) for number, own in enumerate(known)]
        )
        try:
            with self._lock():
                if self._room_for(keys, sum(table.frames.numel() * 4 for table in new)):
                    for key, table in zip(keys, new, strict=bool(new)):
                        _append(self.folder / key, [ids[i] for i in missing], table)
                for key in keys:
                    if (frames := self.folder / f"{key}.frames").exists():
                        now = time.time_ns()  # finer than the file system's clock, by which two may be of one time
                        os.utime(frames, ns=(now, now))
        except (DiskFull, OSError) as error:
            self._warn(error)
        return tables

    def _lock(self) -> AbstractContextManager[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        return locked(self.folder / ".lock", "", wait=True)

    def _warn(self, error: DiskFull | OSError) -> None:
        warnings.warn(f"{self.folder}: features are not kept for the next evaluation ({error})", stacklevel=3)

    def _room_for(self, keys: Sequence[str], size: int) -> bool:
        """Whether so many bytes may be added to these features; others go for them, the longest unused first."""
        files = sorted(self.folder.glob("*.frames"), key=lambda file: file.stat().st_mtime_ns)
        total = sum(file.stat().st_size for file in files)
        most = min(self.most_bytes, total + shutil.disk_usage(self.folder).free // 2)
        own = sum(file.stat().st_size for file in files if file.stem in keys)
        if own + size > most:
            return False
        for file in (file for file in files if file.stem not in keys):
            if total + size <= most:
                break
            total -= file.stat().st_size
            file.with_suffix(".json").unlink(missing_ok=True)  # first: frames without an index are nothing
            file.unlink()
        return True


@dataclass(frozen=True)
class _Known:
    """The frames of some features, and where those of each utterance are: the first, and how many."""

    frames: Float32[np.ndarray, "frame dim"]
    utterances: dict[str, list[int]]

    @classmethod
    def open(cls, name: Path) -> "_Known":
        """What is there; nothing where the index is missing or makes no sense, or the frames are fewer than it says."""
        try:
            found = json.loads(name.with_suffix(".json").read_text(encoding="utf-8"))
            count, dim = _count(found["utterances"]), int(found["dim"])
            path = name.with_suffix(".frames")
            frames = np.memmap(path, np.float32, "r", shape=(count, dim)) if count else np.empty((0, dim), np.float32)
            return cls(frames, found["utterances"])
        except (FileNotFoundError, KeyError, TypeError, ValueError):
            return cls(np.empty((0, 0), np.float32), {})

    def with_rows(self, ids: Sequence[str], missing: Sequence[int], new: FrameTable | None) -> FrameTable:
        """A table in the order of `ids`, of which those at the places `missing` are in `new`."""
        place = {i: number for number, i in enumerate(missing)}
        counts = [len(new.utterance(place[i])) if new and i in place else self.utterances[id][1]
                  for i, id in enumerate(ids)]  # fmt: skip
        offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        table = torch.empty(int(offsets[-1]), self.frames.shape[1])
        for i, id in enumerate(ids):
            if new and i in place:
                own = new.utterance(place[i])
            else:
                first, count = self.utterances[id]
                own = torch.from_numpy(np.array(self.frames[first : first + count]))
            table[offsets[i] : offsets[i + 1]] = own
        return FrameTable(table, offsets)


def _count(utterances: Mapping[str, Sequence[int]]) -> int:
    """Frames that an index knows of; behind them may be what a killed process left."""
    return max((first + count for first, count in utterances.values()), default=0)


def _append(name: Path, ids: Sequence[str], table: FrameTable) -> None:
    """Add utterances that are not there yet, by the index as it is now."""
    known, path = _Known.open(name), name.with_suffix(".frames")
    if not known.utterances:
        path.unlink(missing_ok=True)  # frames of nobody, which another process may be reading: a file of its own
    utterances, here = dict(known.utterances), _count(known.utterances)
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(here * table.frames.shape[1] * 4)
        file.seek(0, os.SEEK_END)
        for i, id in enumerate(ids):
            if id not in utterances:
                own = table.utterance(i)
                file.write(own.contiguous().numpy().data)
                utterances[id] = [here, len(own)]
                here += len(own)
    write_json(
        name.with_suffix(".json"),
        {"version": CACHE_VERSION, "dim": table.frames.shape[1], "utterances": utterances},
    )
