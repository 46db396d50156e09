"""Audio on its way to the model: lengths from the headers, padded batches of short files, pieces of long ones."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float32
from numpy import ndarray
from torch import Tensor

from cpc.audio import Reader, Undecodable, decode
from cpc.evaluation.embedding.batches import batches, pad, rounded_up
from cpc.evaluation.embedding.listing import File
from cpc.model import CPC

SHORTEST = 1 << 10  # samples: shorter files are padded to it
T = TypeVar("T")
U = TypeVar("U")
Skipped = tuple[File, str]
Blocks = Iterator[Float32[ndarray, " _"]]


@dataclass
class Batch:
    """Files of a block that go through the model together; a `long` one alone, in pieces."""

    block: int
    files: list[File] = field(default_factory=list)
    long: bool = False
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[Skipped] = field(default_factory=list)  # files that are read though their header's length is wrong
    present: list[tuple[File, int]] = field(default_factory=list)  # whose frames, so many, are written already
    lengths: list[int] = field(default_factory=list)  # samples, once they are decoded
    waves: Tensor | None = None  # (file, sample)


@dataclass(frozen=True)
class Reading:
    """How files below `root` become batches of at most `batch_samples` samples for a model."""

    root: Path
    model: CPC
    batch_samples: int
    frames_written: Callable[[File], int | None]

    def plan(self, block: tuple[int, list[File]]) -> list[Batch]:
        """The batches of a block, by what the headers say; those whose features are all written are left out.

        Which files share a batch depends on the block alone: after a kill a file has the neighbours that it had.
        """
        number, files = block
        rest = Batch(number)
        readable: list[tuple[File, int]] = []
        for file in files:
            try:
                samples, note = self._samples(file)
                readable.append((file, samples))
                if note:
                    rest.notes.append((file, note))
            except Undecodable as error:
                rest.skipped.append((file, error.reason))
        most = self.batch_samples + 1  # marks a file that is read in pieces
        lengths = np.array([min(samples, most) for _, samples in readable], np.int64)
        found = [rest]
        for places, _ in batches(lengths, SHORTEST, self.batch_samples):
            batch = Batch(number, [readable[place][0] for place in places.tolist()], bool(lengths[places[0]] == most))
            written = [self.frames_written(file) for file in batch.files]
            if None in written:
                found.append(batch)
            else:
                rest.present += [(file, n) for file, n in zip(batch.files, written, strict=True) if n is not None]
        return found

    def _samples(self, file: File) -> tuple[int, str]:
        """Samples at the model's rate, more than any batch holds if they are not known; the reader's note."""
        with closing(Reader(self.root / file.path)) as reader:
            if reader.samples is None:
                return 1 << 62, reader.note
            return -(-reader.samples * self.model.sample_rate // reader.sample_rate), reader.note

    def read(self, batch: Batch) -> Batch:
        """Decode and pad the files of a batch. One that gives no audio, or not enough, is skipped with the reason."""
        if batch.long:
            return batch
        good: list[File] = []
        waves: list[Float32[ndarray, " _"]] = []
        for file in batch.files:
            try:
                wave = decode(self.root / file.path, self.model.sample_rate)
            except Undecodable as error:
                batch.skipped.append((file, error.reason))
                continue
            if reason := too_short(self.model, len(wave)):
                batch.skipped.append((file, reason))
                continue
            good.append(file)
            waves.append(wave)
        batch.files, batch.lengths = good, [len(wave) for wave in waves]
        if waves:
            batch.waves = pad(waves, rounded_up(max(batch.lengths), SHORTEST))
            if next(self.model.parameters()).device.type == "cuda":  # on a CPU beside a GPU nothing travels
                batch.waves = batch.waves.pin_memory()
        return batch


def too_short(model: CPC, samples: int) -> str:
    """The reason why so many samples give no frame; "" if they do."""
    if model.frames(samples) > 0:
        return ""
    return f"{samples} samples are too few for one frame of {model.receptive_field}"


def pieces(path: Path, sample_rate: int, size: int) -> Blocks:
    """`cpc.audio.decode` of a file, `size` samples at a time (the last piece may be shorter), in constant memory.

    Raises Undecodable, possibly after some pieces, for what `decode` refuses.
    """
    with closing(Reader(path)) as reader:
        left = np.zeros(0, np.float32)
        for block in _resampled(_checked(reader), reader.sample_rate, sample_rate):
            left = np.concatenate([left, block])
            while len(left) >= size:
                yield left[:size]
                left = left[size:]
        if len(left):
            yield left


def _checked(reader: Reader) -> Blocks:
    for block in reader.blocks():
        if not np.isfinite(block).all():
            raise Undecodable(reader.path, f"{np.count_nonzero(~np.isfinite(block))} samples are NaN or infinite")
        yield block
    end, expected = reader.position, None if reader.guesses else reader.samples
    if expected is not None and end < expected:
        raise Undecodable(reader.path, f"cut short or damaged: only {end} of {expected} samples can be decoded")
    if reader.damaged:
        raise Undecodable(reader.path, f"damaged: only the first {end} samples can be decoded")


def _resampled(blocks: Blocks, from_rate: int, to_rate: int) -> Blocks:
    """As `cpc.audio.resample` does it, the filter's state carried over from block to block."""
    if from_rate == to_rate:
        yield from blocks
        return
    import soxr  # type: ignore[import-untyped]  # what librosa resamples with, but in a stream

    resampler = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="HQ")
    taken = given = 0
    for block in blocks:
        taken += len(block)
        made = resampler.resample_chunk(block)
        given += len(made)
        yield made
    length = -(-taken * to_rate // from_rate)
    last = resampler.resample_chunk(np.zeros(0, np.float32), last=True)[: length - given]
    yield np.pad(last, (0, length - given - len(last)))


def ahead(pool: Executor, work: Callable[[T], U], items: Iterable[T], depth: int) -> Iterator[U]:
    """`work` of each item, in order, with up to `depth` of them under way in the pool while one is being used."""
    pending: deque[Future[U]] = deque()
    for item in items:
        pending.append(pool.submit(work, item))
        if len(pending) > depth:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def flat(nested: Iterable[Sequence[T]]) -> Iterator[T]:
    """Batch after batch."""
    for items in nested:
        yield from items
