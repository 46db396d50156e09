"""A packed corpus on disk: names, columns, and the writing of one shard, all or nothing."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from cpc.audio import Undecodable, decode, to_int16
from cpc.corpus.source import Source
from cpc.files import atomic

FORMAT = 1
SAMPLE = np.dtype("<i2")
TEXT_COLUMNS = ("id", "speaker", "chapter", "sex", "subset", "text")
_ROW_GROUP = 1 << 16


class Part(NamedTuple):
    """What one shard holds. Its file on disk says that the shard is complete."""

    rows: list[list[Any]]  # TEXT_COLUMNS, then shard, offset, samples
    skipped: list[list[str]]  # path, reason
    sha256: str  # of the shard's samples


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
    sources: Sequence[Source],
    path: Path,
    shard: int,
    sample_rate: int,
    *,
    root: Path,
    tick: Callable[[int], None],
) -> Part:
    """Decode `sources` into one shard at `path`, one utterance in memory at a time.

    `tick(samples)` is called after each file. Paths in `skipped` are relative to `root`.
    """
    part, sha, offset = Part([], [], ""), hashlib.sha256(), 0
    with atomic(path) as file:
        _write_header(file, 0)
        for source in sources:
            try:
                samples = to_int16(decode(source.path, sample_rate)).astype(SAMPLE, copy=False)
            except Undecodable as error:
                part.skipped.append([relative(source.path, root), error.reason])
                tick(0)
                continue
            file.write(samples.data)
            sha.update(samples.data)
            part.rows.append([*texts(source), shard, offset, len(samples)])
            offset += len(samples)
            tick(len(samples))
        file.seek(0)
        _write_header(file, offset)
    return part._replace(sha256=sha.hexdigest())


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


def write_manifest(path: Path, parts: Iterable[Part]) -> None:
    """Stream the parts' rows into one Parquet file; its bytes depend on the rows alone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    strings = [pa.field(name, pa.string()) for name in TEXT_COLUMNS]
    numbers = [pa.field("shard", pa.int32()), pa.field("offset", pa.int64()), pa.field("samples", pa.int64())]
    schema = pa.schema(strings + numbers)
    rows = (row for part in parts for row in part.rows)
    with atomic(path) as file, pq.ParquetWriter(file, schema) as writer:
        while group := list(islice(rows, _ROW_GROUP)):
            columns = [list(column) for column in zip(*group, strict=True)]
            writer.write_table(pa.table(columns, schema=schema))
