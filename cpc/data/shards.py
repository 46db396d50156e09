"""One utterance before it is packed: where its audio lies and what is known about it."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from cpc.audio.decode import Reader, to_int16
from cpc.audio.integrity import Undecodable
from cpc.io import atomic


@dataclass(frozen=True, slots=True)
class Source:
    """One utterance: an audio file, or samples start..stop of one. What is not known stays an empty string.

    `start` and `stop` count samples of the file at the file's own rate; `stop=None` is the end of the file.
    """

    id: str
    path: Path
    speaker: str
    chapter: str = ""
    sex: str = ""
    subset: str = ""
    text: str = ""
    start: int = 0
    stop: int | None = None

    @property
    def is_segment(self) -> bool:
        """Whether it is a part of its file, not the whole of it."""
        return self.start > 0 or self.stop is not None


# --- A packed corpus on disk: names, columns, and the writing of one shard, all or nothing.


FORMAT = 1
SAMPLE = np.dtype("<i2")
TEXT_COLUMNS = ("id", "speaker", "chapter", "sex", "subset", "text")
ROW_GROUP = 1 << 13  # rows of a manifest that are in memory at once while it is written


class ShardContents(NamedTuple):
    """What one shard holds. Its file on disk says that the shard is complete."""

    rows: list[list[Any]]  # TEXT_COLUMNS, then shard, offset, samples
    skipped: list[list[str]]  # path, reason
    sha256: str  # of the shard's samples
    notes: Sequence[list[str]] = ()  # path, what was wrong with the length in its header


def read_ids(path: Path) -> list[str]:
    """The ids of a split file, one a line; blank lines and a missing last newline do not matter."""
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return [line.strip() for line in lines if line.strip()]


def find_sorted(ids: Any, id: str) -> int | None:
    """Place of `id` in a sorted arrow column of strings, by bisection: no million Python strings for one look."""
    place = bisect_left(range(len(ids)), id, key=lambda row: ids[row].as_py())
    return place if place < len(ids) and ids[place].as_py() == id else None


def shard_path(corpus: Path, shard: int) -> Path:
    """Where a shard's samples lie."""
    return corpus / "shards" / f"{shard:05d}.npy"


def write_shard(
    sources: Iterable[Source],
    path: Path,
    shard: int,
    sample_rate: int,
    *,
    root: Path,
    tick: Callable[[int, bool], None],
    strict: bool = False,
) -> ShardContents:
    """Decode `sources`, files or segments of files, into one shard at `path`, one utterance in memory at a time.

    `tick(samples, failed)` is called after each. Paths in `skipped` and `notes` are relative to `root`; `strict` is
    `cpc.audio.decode`'s.
    """
    part, sha, offset = ShardContents([], [], ""), hashlib.sha256(), 0
    notes: dict[str, str] = {}  # of each file once
    with atomic(path) as file, closing(_Segments(strict)) as segments:
        _write_header(file, 0)
        for source in sources:
            try:
                samples = to_int16(segments.decode(source, sample_rate)).astype(SAMPLE, copy=False)
            except Undecodable as error:
                part.skipped.append([relative(source.path, root), _where(source) + error.reason])
                tick(0, True)
                continue
            if segments.note:
                notes[relative(source.path, root)] = segments.note
            file.write(samples.data)
            sha.update(samples.data)
            part.rows.append([*texts(source), shard, offset, len(samples)])
            offset += len(samples)
            tick(len(samples), False)
        file.seek(0)
        _write_header(file, offset)
    return part._replace(sha256=sha.hexdigest(), notes=[list(note) for note in notes.items()])


class _Segments:
    """Decodes whole files, and segments of long ones: segments of one file in their order cost one pass over it."""

    def __init__(self, strict: bool) -> None:
        self._reader: Reader | None = None
        self._strict = strict
        self.note = ""  # of the file that was read last

    def decode(self, source: Source, sample_rate: int) -> Float32[ndarray, " sample"]:
        if self._reader is None or self._reader.path != source.path or not source.is_segment:
            self.close()
            self._reader = Reader(source.path, strict=self._strict)
        self.note = self._reader.note
        return self._reader.decode(sample_rate, source.start, source.stop)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _where(source: Source) -> str:
    """What a reason is about, if not the whole file."""
    end = "the end" if source.stop is None else source.stop
    return f"samples {source.start} to {end}: " if source.is_segment else ""


def texts(source: Source) -> list[str]:
    """The manifest's text columns of one source."""
    return [printable(getattr(source, name)) for name in TEXT_COLUMNS]


def _write_header(file: IO[bytes], samples: int) -> None:
    # The length is known only at the end. NumPy pads a header so that it keeps its size when the axis grows.
    header = {"descr": SAMPLE.str, "fortran_order": False, "shape": (samples,)}
    np.lib.format.write_array_header_1_0(file, header)


def relative(path: Path, root: Path) -> str:
    """`path` from `root` as one printable line."""
    text = Path(os.path.relpath(path, root)).as_posix()
    return printable(text).replace("\t", "\\t").replace("\n", "\\n")


def printable(text: str) -> str:
    """A file name that is not UTF-8 has its odd bytes written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def write_manifest(path: Path, parts: Iterable[ShardContents]) -> None:
    """Stream the parts' rows into one Parquet file; its bytes depend on the rows alone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    strings = [pa.field(name, pa.string()) for name in TEXT_COLUMNS]
    numbers = [pa.field("shard", pa.int32()), pa.field("offset", pa.int64()), pa.field("samples", pa.int64())]
    schema = pa.schema(strings + numbers)
    pool = pa.system_memory_pool()  # arrow's own would keep 20 MiB of what is freed
    with atomic(path) as file, pq.ParquetWriter(file, schema, memory_pool=pool) as writer:
        for rows in _groups(row for part in parts for row in part.rows):
            columns = zip(zip(*rows, strict=True), schema, strict=True)
            arrays = [pa.array(column, field.type, memory_pool=pool) for column, field in columns]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _groups(rows: Iterable[list[Any]]) -> Iterator[list[list[Any]]]:
    left = iter(rows)
    return iter(lambda: list(islice(left, ROW_GROUP)), [])
