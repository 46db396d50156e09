"""The order that the rows of several manifests take in one: sorted by id, with new numbers for the shards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from cpc.config import InputError
from cpc.corpus import shards
from cpc.corpus.corpus import HEADER, Corpus
from cpc.files import atomic

GROUP = shards.ROW_GROUP  # rows that are read and written at once: a merged manifest is as one packed at once


class Order(NamedTuple):
    """Rows are counted through all parts, one part after another; numbers only, 16 bytes a row."""

    rows: Int[ndarray, " row"]  # row i of the merged corpus is this one of the parts
    starts: Int[ndarray, " parts"]  # the first row of each part
    shards: list[tuple[int, int]]  # (part, its shard) for each shard of the merged corpus
    shard: Int[ndarray, " row"]  # of each merged row
    ends: Int[ndarray, " shard"]  # samples of each merged shard


def find_order(corpora: Sequence[Corpus]) -> Order:
    """Sort the rows of all corpora by id, and their shards by the first id in each; shards without rows drop out.

    Neither depends on how the utterances are spread over the corpora, nor on the order of these. Raises
    InputError for ids that clash, with counts and examples, and for a manifest that is not in the order of its ids.
    """
    starts = np.cumsum([0, *map(len, corpora)])[:-1]
    rows = _sort(corpora, starts)
    most = np.array([corpus.shard.max(initial=-1) + 1 for corpus in corpora])
    first = np.cumsum([0, *most])[:-1]  # shards counted through all parts, as the rows are
    shard = np.concatenate([corpus.shard + start for corpus, start in zip(corpora, first, strict=True)])[rows]
    found, seen, inverse = np.unique(shard, return_index=True, return_inverse=True)
    number = np.argsort(np.argsort(seen))[inverse]  # shards in the order in which they come up
    ends = np.zeros(len(found), np.int64)
    np.maximum.at(ends, number, np.concatenate([corpus.offset + corpus.samples for corpus in corpora])[rows])
    places = found[np.argsort(seen)]
    part = np.searchsorted(first, places, side="right") - 1
    return Order(rows, starts, list(zip(part.tolist(), (places - first[part]).tolist(), strict=True)), number, ends)


def _sort(corpora: Sequence[Corpus], starts: Int[ndarray, " parts"]) -> Int[ndarray, " row"]:
    import pyarrow as pa
    import pyarrow.compute as pc

    ids = pa.chunked_array([corpus.column("id") for corpus in corpora], pa.string())
    rows: ndarray = pc.sort_indices(ids).to_numpy().astype(np.int64)
    ordered = ids.take(pa.array(rows))
    clashing = np.flatnonzero(pc.equal(ordered[1:], ordered[:-1]).to_numpy()) if len(rows) > 1 else rows[:0]
    if len(clashing):
        raise _clash(corpora, starts, rows, clashing, [ordered[int(place)].as_py() for place in clashing[:3]])
    place = np.empty(len(rows), np.int64)
    place[rows] = np.arange(len(rows))
    for corpus, start in zip(corpora, starts.tolist(), strict=True):
        if np.any(np.diff(place[start : start + len(corpus)]) < 0):
            raise InputError(f"part={corpus.path}: its manifest is not sorted by id; pack it again")
    return rows


def _clash(
    corpora: Sequence[Corpus],
    starts: Int[ndarray, " parts"],
    rows: Int[ndarray, " row"],
    clashing: Int[ndarray, " clash"],
    examples: Sequence[str],
) -> InputError:
    """What to say of ids that more than one row has: `clashing` are the places where the next row has the same."""
    part = np.searchsorted(starts, rows, side="right") - 1
    both = (corpora[part[clashing[0] + step]].path for step in (0, 1))
    where = " and ".join(dict.fromkeys(map(str, both)))
    remedy = "an id must be in one part only, so leave a part out or pack it with other ids"
    return InputError(f"parts: {len(clashing)} ids clash, for example {', '.join(examples)} in {where}; {remedy}")


def write_manifest(order: Order, corpora: Sequence[Corpus], target: Path) -> None:
    """Stream the manifests' rows into one at `target`: what is in memory are the rows of a group, not of a corpus."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    readers = [_Reader(corpus.path / "manifest.parquet") for corpus in corpora]
    schema = readers[0].schema
    with atomic(target) as file, pq.ParquetWriter(file, schema) as writer:
        for start in range(0, len(order.rows), GROUP):
            group = slice(start, start + GROUP)
            part = np.searchsorted(order.starts, order.rows[group], side="right") - 1
            counts = np.bincount(part, minlength=len(readers)).tolist()
            table = pa.concat_tables([reader.take(count) for reader, count in zip(readers, counts, strict=True)])
            place: Any = np.argsort(np.argsort(part, kind="stable"))  # in `table`, where part comes after part
            numbers = pa.array(order.shard[group], schema.field("shard").type)
            table = table.take(place).set_column(schema.names.index("shard"), "shard", numbers)
            writer.write_table(table.combine_chunks())


class _Reader:
    """The rows of one manifest, from the first to the last."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        file = pq.ParquetFile(path, memory_map=True)
        self.schema: Any = file.schema_arrow
        self._batches = file.iter_batches(batch_size=GROUP)
        self._left: Any = self.schema.empty_table()

    def take(self, count: int) -> Any:
        """The next `count` rows."""
        import pyarrow as pa

        while len(self._left) < count:
            self._left = pa.concat_tables([self._left, pa.Table.from_batches([next(self._batches)])])
        taken, self._left = self._left[:count], self._left[count:]
        return taken


def check_files(order: Order, corpora: Sequence[Corpus]) -> None:
    """Raise InputError if the manifests' columns differ, or a shard is missing or not as long as they say."""
    import pyarrow.parquet as pq

    schemas = [pq.read_schema(corpus.path / "manifest.parquet") for corpus in corpora]
    for corpus, schema in zip(corpora, schemas, strict=True):
        if not schema.equals(schemas[0]):
            raise InputError(f"part={corpus.path}: has other columns than {corpora[0].path}; pack one of them again")
    for (part, shard), end in zip(order.shards, order.ends.tolist(), strict=True):
        path = shards.shard_path(corpora[part].path, shard)
        size, expected = path.stat().st_size if path.is_file() else 0, HEADER + shards.SAMPLE.itemsize * end
        if size != expected:
            raise InputError(f"part={corpora[part].path}: {path.name} has {size} bytes, not {expected}; copy it again")
