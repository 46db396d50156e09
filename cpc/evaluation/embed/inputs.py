"""Which files are to be embedded: any number of them, in one order, never all in memory, cut into blocks of work."""

import ctypes
import hashlib
import json
import os
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy import ndarray
from torch import Tensor, nn

from cpc.audio.decode import Reader, decode, walk_audio
from cpc.audio.integrity import Undecodable
from cpc.audio.location import locate
from cpc.config import InputError
from cpc.data.shards import printable
from cpc.data.spool import Database
from cpc.models.cpc import CPC

BLOCK_FILES, BLOCK_BYTES = 512, 1 << 26  # of a block at most: what a kill costs, and what one part or shard holds
_CHUNK = 512  # files that are read from the database at once


class File(NamedTuple):
    """An audio file below the source. `id` is its path without the suffix, `size` its bytes (−1 if unknown)."""

    id: str
    path: str
    size: int

    @property
    def shown(self) -> str:
        """The path as one printable line without tabs."""
        return printable(self.path).replace("\t", "\\t").replace("\n", "\\n")


@dataclass(frozen=True)
class FileListing:
    """The files of a source, sorted by id, in a database on disk. `digest` covers their paths and sizes."""

    root: Path
    database: Database
    files: int
    digest: str

    def blocks(self, first: int = 1, every: int = 1) -> Iterator[tuple[int, list[File]]]:
        """Number and files of each block, or of every so manieth from the `first` (counted from 1).

        Where one block ends and the next begins depends on the files alone.
        """
        for number, block in enumerate(_cut(_read(self.database))):
            if number % every == first - 1:
                yield number, block


def listed(source: Path) -> FileListing:
    """The listing of a folder, subfolders included, or of one file.

    Raises:
        InputError: there is no audio at `source`, a folder cannot be read, or two files have the same id.
    """
    source = locate(source)
    root = source if source.is_dir() else source.parent
    database = Database(
        "CREATE TABLE given (key BLOB, file TEXT)", "CREATE TABLE listing (place INTEGER PRIMARY KEY, file TEXT)"
    )
    database.write("INSERT INTO given VALUES (?, ?)", (_row(_file(path, root)) for path in walk_audio(source)))
    database.run("INSERT INTO listing (file) SELECT file FROM given ORDER BY key")
    database.run("DROP TABLE given")
    sha, files, before = hashlib.sha256(), 0, None
    for file in _read(database):
        if before is not None and before.id == file.id:
            both = f"{root / before.path} and {root / file.path}"
            raise InputError(f"id={file.id}: two files would share it: {both}; rename one of them")
        sha.update(json.dumps(file).encode() + b"\n")
        files, before = files + 1, file
    return FileListing(root, database, files, sha.hexdigest())


def _file(path: Path, root: Path) -> File:
    below = path.relative_to(root).as_posix()
    try:
        size = path.stat().st_size
    except OSError:  # a link that leads nowhere: decoding says so
        size = -1
    return File(os.path.splitext(below)[0], below, size)  # noqa: PTH122 (a million times)


def _row(file: File) -> tuple[bytes, str]:
    """UTF-8 sorts as text does; names that are not UTF-8 keep their odd bytes as surrogates."""
    return file.id.encode("utf-8", "surrogatepass"), json.dumps(file)


def _read(database: Database) -> Iterator[File]:
    last = 0
    while rows := database.read("SELECT place, file FROM listing WHERE place > ? ORDER BY place LIMIT ?", last, _CHUNK):
        yield from (File(*json.loads(text)) for _, text in rows)
        last = rows[-1][0]


def _cut(files: Iterable[File]) -> Iterator[list[File]]:
    """Runs of files within the limits of a block; a larger file alone."""
    block: list[File] = []
    filled = 0
    for file in files:
        if block and (len(block) == BLOCK_FILES or filled + file.size > BLOCK_BYTES):
            yield block
            block, filled = [], 0
        block.append(file)
        filled += file.size
    if block:
        yield block


# --- Padded batches of waveforms of similar length: few shapes, and a bounded share of padding.


def rounded_up(samples: int, shortest: int) -> int:
    """The next of the lengths k · 2^j with k = 8 … 15, at least `shortest`: less than an eighth more."""
    samples = max(samples, shortest)
    step = 1 << (samples.bit_length() - 4)
    return -(-samples // step) * step


def batches(
    samples: Int64[np.ndarray, " piece"], shortest: int, batch_samples: int
) -> Iterator[tuple[Int64[np.ndarray, " batch"], int]]:
    """Places and padded length of each batch, longest first, where memory is at its highest.

    A batch holds at most `batch_samples` samples with its padding, or a single waveform.
    """
    padded = np.array([rounded_up(int(n), shortest) for n in samples], dtype=np.int64)
    for length in np.unique(padded)[::-1].tolist():
        places = np.flatnonzero(padded == length)
        size = max(1, batch_samples // length)
        yield from ((places[start : start + size], length) for start in range(0, len(places), size))


def pad(waves: Sequence[Float32[np.ndarray, " _"]], length: int) -> Float32[Tensor, "batch sample"]:
    """Waveforms of several lengths as the rows of one tensor, zeros behind each."""
    rows = torch.zeros(len(waves), length)
    for row, wave in zip(rows, waves, strict=True):
        row[: len(wave)] = torch.from_numpy(wave)
    return rows


def release_memory(device: torch.device) -> None:
    """Let malloc return what `keep_freed_memory` made it keep: holes of one batch's shape do not fit the next one's,
    and would add up to several times the memory of a batch.
    """
    if device.type == "cpu" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and the mode that was before afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


# --- Audio on its way to the model: lengths from the headers, padded batches of short files, pieces of long ones.


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
        """The batches of a block, by what the headers say; those whose features are all written are skipped.

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
    """As `cpc.audio.decode.resample` does it, the filter's state carried over from block to block."""
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
