"""Phone alignments: intervals in seconds, turned into a label for each frame by the centre of the frame."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from cpc.config import InputError
from cpc.corpus import shards
from cpc.files import atomic, write_json


class AlignedRow(NamedTuple):
    """One utterance: label i holds from onsets[i] to offsets[i], in seconds."""

    id: str
    onsets: Float[ndarray, " interval"]
    offsets: Float[ndarray, " interval"]
    labels: Int[ndarray, " interval"]


class Alignment:
    """The intervals of one labelling scheme of a corpus, for every utterance that has them."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        info = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        self.inventory: list[str] = info["inventory"]
        self.source: str = info["source"]
        table = pq.ParquetFile(path, memory_map=True).read()
        self._ids: Any = table["id"].combine_chunks()
        lists = {name: _flat(table[name]) for name in ("onset", "offset", "label")}
        self._bounds = lists["onset"][0]
        self._onsets, self._offsets, self._labels = (values for _, values in lists.values())

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, id: str) -> bool:
        return shards.find_sorted(self._ids, id) is not None

    def intervals(self, id: str) -> AlignedRow:
        """The intervals of one utterance. Raises InputError if it has none."""
        if (place := shards.find_sorted(self._ids, id)) is None:
            raise InputError(f"id={id}: has no labels ({len(self)} utterances have); leave it out of the split")
        part = slice(self._bounds[place], self._bounds[place + 1])
        return AlignedRow(id, self._onsets[part], self._offsets[part], self._labels[part])

    def frames(self, id: str, centres: Float[ndarray, " frame"]) -> Int[ndarray, " frame"]:
        """The label of the interval [onset, offset) that holds each centre (seconds); −1 where none does.

        By time, not by counting: a hop, padding or receptive field of any kind is in the centres already.
        Raises InputError if the utterance has no labels.
        """
        row = self.intervals(id)
        if not len(row.labels):
            return np.full(len(centres), -1, np.int64)
        place = np.searchsorted(row.onsets, centres, side="right") - 1
        inside = (place >= 0) & (centres < row.offsets[place])
        return np.where(inside, row.labels[place], -1).astype(np.int64)


def _flat(column: Any) -> tuple[ndarray, ndarray]:
    """A list column as one array and the bounds of each row in it."""
    chunk = column.combine_chunks()
    return chunk.offsets.to_numpy(), chunk.values.to_numpy()


def write_alignment(
    corpus_dir: Path, scheme: str, rows: Iterable[AlignedRow], inventory: Sequence[str], source: str
) -> int:
    """Write labels/SCHEME.parquet and .json; return the number of utterances.

    `source` says in words where the labels come from. Intervals must be in order, without overlap, and labels
    must index `inventory`: else InputError.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    ordered = sorted(rows, key=lambda row: row.id)
    for before, row in zip([None, *ordered], ordered, strict=False):
        _check(row, len(inventory), before.id if before else None)
    types = {"id": pa.string(), "onset": pa.list_(pa.float64()), "offset": pa.list_(pa.float64())}
    schema = pa.schema([*types.items(), ("label", pa.list_(pa.int16()))])
    columns = [[row[column] for row in ordered] for column in range(4)]
    path = Path(corpus_dir) / "labels" / f"{scheme}.parquet"
    with atomic(path) as file:
        pq.write_table(pa.table(columns, schema=schema), file)
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    write_json(path.with_suffix(".json"), {"inventory": list(inventory), "source": source, "sha256": sha})
    return len(ordered)


def _check(row: AlignedRow, classes: int, before: str | None) -> None:
    if row.id == before:
        raise InputError(f"id={row.id}: has labels twice; keep one")
    if not len(row.onsets) == len(row.offsets) == len(row.labels):
        raise InputError(f"id={row.id}: onsets, offsets and labels must be equally many")
    if np.any(row.offsets < row.onsets) or np.any(row.onsets[1:] < row.offsets[:-1]):
        raise InputError(f"id={row.id}: its intervals overlap or are out of order; sort them by onset")
    if len(row.labels) and not 0 <= row.labels.min() <= row.labels.max() < classes:
        rule = f"labels must lie in 0..{classes - 1}, the inventory's places"
        raise InputError(f"id={row.id}: label {row.labels.min()} or {row.labels.max()}: {rule}")


def read_cpc_phones(
    path: Path, first_centre: int = 200, hop: int = 160, sample_rate: int = 16000
) -> Iterator[AlignedRow]:
    """Read labels in the format of the CPC paper, plain or gzip: a line is `ID LABEL LABEL …`, a label a hop.

    Label j describes the `hop` samples around sample hop·j + first_centre. Equal neighbours become one
    interval; the first one starts at 0, and the last ends where its label does (the caller, who knows the
    length of the audio, extends it). Raises InputError, with file and line, for anything but whole numbers.
    """
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            id, *words = line.split()
            try:
                labels = np.array(words, dtype=np.int64)
            except ValueError as error:
                raise InputError(f"{path}, line {number} ({id}): labels must be whole numbers") from error
            yield _merge(id, labels, first_centre, hop, sample_rate)


def _merge(id: str, labels: Int[ndarray, " label"], first_centre: int, hop: int, sample_rate: int) -> AlignedRow:
    starts = np.flatnonzero(np.diff(labels, prepend=labels[:1] - 1))
    edges = np.append(starts, len(labels)) * hop + first_centre - hop // 2
    edges[0] = 0
    seconds = edges / sample_rate
    return AlignedRow(id, seconds[:-1], seconds[1:], labels[starts])
