"""Phone alignments: intervals in seconds, turned into a label for each frame by the centre of the frame."""

from __future__ import annotations

import gzip
import hashlib
import heapq
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice, pairwise, zip_longest
from operator import attrgetter
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from cpc.config import InputError
from cpc.data import shards
from cpc.io import atomic, write_json

GROUP = 1 << 10  # utterances written, and read, at once
MOST_GROUPS = 1 << 8  # groups kept in memory: all of LibriSpeech's 960 hours


class AlignedRow(NamedTuple):
    """One utterance: label i holds from onsets[i] to offsets[i], in seconds."""

    id: str
    onsets: Float[ndarray, " interval"]
    offsets: Float[ndarray, " interval"]
    labels: Int[ndarray, " interval"]

    def frames(self, centres: Float[ndarray, " frame"]) -> Int[ndarray, " frame"]:
        """The label of the interval [onset, offset) that holds each centre (seconds); −1 where none does.

        By time, not by counting: a hop, padding or receptive field of any kind is in the centres already.
        """
        if not len(self.labels):
            return np.full(len(centres), -1, np.int64)
        place = np.searchsorted(self.onsets, centres, side="right") - 1
        inside = (place >= 0) & (centres < self.offsets[place])
        return np.where(inside, self.labels[place], -1).astype(np.int64)


class Group(NamedTuple):
    """Utterances side by side: row i has the intervals from ends[i] to ends[i + 1]."""

    ids: Any  # an arrow column of strings
    ends: Int[ndarray, " rows+1"]
    onsets: Float[ndarray, " interval"]
    offsets: Float[ndarray, " interval"]
    labels: Int[ndarray, " interval"]

    def row(self, place: int, id: str) -> AlignedRow:
        """The intervals of the utterance at `place`, whose id the caller knows."""
        part = slice(self.ends[place], self.ends[place + 1])
        return AlignedRow(id, self.onsets[part], self.offsets[part], self.labels[part])


class Alignment:
    """The intervals of one labelling scheme of a corpus, for every utterance that has them.

    Opening reads the ids alone; intervals are read in groups of utterances when asked for, and the latest groups
    are kept. `inventory` names the labels, `source` says in words where they come from, `provenance` in detail.
    `silences` are the labels that are no phones, one a line of the file labels/SCHEME.silences; without that file they
    are None, and those of `cpc.evaluation.phones` hold.
    """

    def __init__(self, path: Path, *more: Path) -> None:
        """One file labels/SCHEME.parquet, or several as one.

        Raises:
            InputError: several that have different inventories, sources or silences. Words may differ: their classes
                are those that occur.
        """
        self._files = [_Labels(each) for each in (path, *more)]
        first = self._files[0]
        self.inventory, self.source, self.silences = first.inventory, first.source, first.silences
        self.provenance: dict[str, Any] = first.provenance
        if more:
            if path.stem == "words" or path.stem.endswith("_words"):
                self.inventory = sorted({name for file in self._files for name in file.inventory})
            for other in self._files[1:]:
                _check_same_inventory(self.inventory, first, other)
            self.provenance = {"parts": [file.provenance for file in self._files]}
        self.sha256 = [file.sha256 for file in self._files]

    @property
    def ids(self) -> Any:
        """Utterances that have labels, sorted: an arrow column of strings."""
        if len(self._files) == 1:
            return self._files[0].ids
        import pyarrow as pa

        return pa.chunked_array([file.ids for file in self._files]).sort().combine_chunks()

    def __len__(self) -> int:
        return sum(len(file.ids) for file in self._files)

    def __contains__(self, id: str) -> bool:
        return any(shards.find_sorted(file.ids, id) is not None for file in self._files)

    def __iter__(self) -> Iterator[AlignedRow]:
        """Every utterance in the order of ids, with memory for a group of them at a time."""
        rows = (_rows(self._renumbered(file, group) for group in file.groups()) for file in self._files)
        return heapq.merge(*rows, key=attrgetter("id"))

    def groups(self) -> Iterator[Group]:
        """All intervals, many utterances at a time: for sums over the whole scheme."""
        return (self._renumbered(file, group) for file in self._files for group in file.groups())

    def intervals(self, id: str) -> AlignedRow:
        """The intervals of one utterance. Raises InputError if it has none."""
        for file in self._files:
            if (place := shards.find_sorted(file.ids, id)) is not None:
                number = int(np.searchsorted(file.starts, place, side="right")) - 1
                return self._renumbered(file, file.group(number)).row(place - int(file.starts[number]), id)
        raise InputError(f"id={id}: has no labels ({len(self)} utterances have); leave it out of the split")

    def frames(self, id: str, centres: Float[ndarray, " frame"]) -> Int[ndarray, " frame"]:
        """The label at each centre (seconds), −1 where none is; see `AlignedRow.frames`.

        Raises InputError if the utterance has no labels.
        """
        return self.intervals(id).frames(centres)

    def _renumbered(self, file: _Labels, group: Group) -> Group:
        """A group whose labels are places in the inventory of all files."""
        if file.inventory == self.inventory:
            return group
        place = {name: number for number, name in enumerate(self.inventory)}
        return group._replace(labels=np.array([place[name] for name in file.inventory], np.int32)[group.labels])


class _Labels:
    """One file of labels: its ids in memory, its intervals in groups when asked for, the latest of which are kept."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        info = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        self.path = path
        self.inventory: list[str] = info["inventory"]
        self.source: str = info["source"]
        self.provenance: dict[str, Any] = info.get("provenance", {})
        self.sha256: str = info.get("sha256", "")
        named = path.with_suffix(".silences")
        self.silences: list[str] | None = (
            [line.strip() for line in named.read_text(encoding="utf-8").splitlines()] if named.is_file() else None
        )
        self._file = pq.ParquetFile(path, memory_map=True)
        self.ids: Any = self._file.read(columns=["id"])["id"].combine_chunks()  # sorted, an arrow column of strings
        groups = range(self._file.num_row_groups)
        self.starts = np.cumsum([0, *(self._file.metadata.row_group(group).num_rows for group in groups)])
        self.group = lru_cache(MOST_GROUPS)(self._read)

    def groups(self) -> Iterator[Group]:
        """All of them in the order of ids; they are not kept."""
        return (self._read(number) for number in range(len(self.starts) - 1))

    def _read(self, number: int) -> Group:
        table = self._file.read_row_group(number)
        lists: list[Any] = [table[name].combine_chunks() for name in ("onset", "offset", "label")]
        ends = lists[0].offsets.to_numpy()
        return Group(table["id"].combine_chunks(), ends, *(each.values.to_numpy() for each in lists))


def _rows(groups: Iterable[Group]) -> Iterator[AlignedRow]:
    for group in groups:
        for place, id in enumerate(group.ids.to_pylist()):
            yield group.row(place, id)


def _check_same_inventory(inventory: Sequence[str], first: _Labels, other: _Labels) -> None:
    """Raise InputError if labels of one name do not go together."""
    what = ""
    if not set(other.inventory) <= set(inventory) or (first.inventory == inventory != other.inventory):
        pairs = enumerate(zip_longest(first.inventory, other.inventory, fillvalue="none"))
        place, names = next((place, names) for place, names in pairs if names[0] != names[1])
        what = f"inventories: class {place} is {' and '.join(names)}"
    elif first.source != other.source:
        what = f"sources: {first.source} and {other.source}"
    elif first.silences != other.silences:
        what = "files of silences"
    if what:
        remedy = "label both in one way, or take these labels out of one of them"
        raise InputError(f"labels={first.path.stem}: {first.path} and {other.path} have different {what}; {remedy}")


def write_alignment(
    corpus_dir: Path,
    scheme: str,
    rows: Iterable[AlignedRow],
    inventory: Sequence[str],
    source: str,
    provenance: Mapping[str, object] | None = None,
) -> int:
    """Write labels/SCHEME.parquet and .json; return the number of utterances.

    `source` says in words where the labels come from; `provenance` is kept in the json: tool, version, checksums,
    settings. Rows may come in any order; in the order of their ids they are written as they come, in little memory.
    Intervals must be in order, without overlap, and labels must index `inventory`: else InputError, and a scheme of
    that name stays as it was. The json comes last: without it the scheme does not exist.
    """
    path = Path(corpus_dir) / "labels" / f"{scheme}.parquet"
    info = {"inventory": list(inventory), "source": source, "provenance": dict(provenance or {})}
    with atomic(path) as file:
        count = _write(file, rows, len(inventory))
        file.flush()
        with Path(file.name).open("rb") as written:
            info["sha256"] = hashlib.file_digest(written, "sha256").hexdigest()
        path.with_suffix(".json").unlink(missing_ok=True)  # never an old inventory beside new labels
    write_json(path.with_suffix(".json"), info)
    return count


def _write(file: IO[bytes], rows: Iterable[AlignedRow], classes: int) -> int:
    """Write the rows sorted by id, in groups; how many they are."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    label = pa.int16() if classes <= 1 << 15 else pa.int32()
    seconds, labels = pa.list_(pa.float64()), pa.list_(label)
    schema = pa.schema({"id": pa.string(), "onset": seconds, "offset": seconds, "label": labels})
    ids: list[str] = []
    stream = iter(rows)
    with pq.ParquetWriter(file, schema) as writer:
        while chunk := list(islice(stream, GROUP)):
            _check(chunk, classes)
            ids += [row.id for row in chunk]
            writer.write_table(_table(chunk, schema))
    _check_ids(ids)
    if any(one > other for one, other in pairwise(ids)):
        file.flush()
        table = pq.read_table(file.name).cast(schema).sort_by("id")
        file.seek(0)
        file.truncate()
        with pq.ParquetWriter(file, schema) as writer:
            for start in range(0, len(ids), GROUP):
                writer.write_table(table.slice(start, GROUP).combine_chunks())
    return len(ids)


def _table(rows: Sequence[AlignedRow], schema: Any) -> Any:
    import pyarrow as pa

    ends = pa.array(np.cumsum([0, *(len(row.labels) for row in rows)]), pa.int32())
    columns: list[Any] = [pa.array([row.id for row in rows], pa.string())]
    for place, field in enumerate(list(schema)[1:], 1):
        flat: Any = pa.array(np.concatenate([row[place] for row in rows]), field.type.value_type)
        columns.append(pa.ListArray.from_arrays(ends, flat))
    return pa.table(columns, schema=schema)


def _check_ids(ids: Sequence[str]) -> None:
    if len(set(ids)) < len(ids):
        twice = next(id for id, count in Counter(ids).items() if count > 1)
        raise InputError(f"id={twice}: has labels twice; keep one")


def _check(rows: Sequence[AlignedRow], classes: int) -> None:
    for row in rows:
        if not len(row.onsets) == len(row.offsets) == len(row.labels):
            raise InputError(f"id={row.id}: onsets, offsets and labels must be equally many")
        if not (np.isfinite(row.onsets).all() and np.isfinite(row.offsets).all()):
            raise InputError(f"id={row.id}: has times that are not finite")
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
    length of the audio, extends it). Raises InputError for a file that is missing or broken, and, with file and
    line, for anything but whole numbers.
    """
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                id, *words = line.split()
                try:
                    labels = np.array(words, dtype=np.int64)
                except (ValueError, OverflowError) as error:
                    raise InputError(f"{path}, line {number} ({id}): labels must be whole numbers") from error
                yield _merge(id, labels, first_centre, hop, sample_rate)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read after line {number}: {reason}") from error


def _merge(id: str, labels: Int[ndarray, " label"], first_centre: int, hop: int, sample_rate: int) -> AlignedRow:
    starts = np.flatnonzero(np.diff(labels, prepend=labels[:1] - 1))
    edges = np.append(starts, len(labels)) * hop + first_centre - hop // 2
    edges[0] = 0
    seconds = edges / sample_rate
    return AlignedRow(id, seconds[:-1], seconds[1:], labels[starts])
