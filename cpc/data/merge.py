"""The order that the rows of several manifests take in one: sorted by id, with new numbers for the shards."""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from cpc.config import InputError
from cpc.data import shards
from cpc.data.alignment import AlignedRow, Alignment, write_alignment
from cpc.data.corpus import HEADER, Corpus
from cpc.data.pack import claimed, taken, work_folder
from cpc.data.progress import show_progress
from cpc.io import atomic, write_json

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


# --- What lies beside the audio of several corpora, in one: splits, labels with their scores, skipped files, cuts.


TABLES = ("*.tsv", "*.jsonl", "labels/*.tsv")  # a first line that says what the others hold, and these
FILES = ("splits/*.txt", "labels/*.json", *TABLES)
MADE = frozenset(("corpus.json", "manifest.parquet", "shards", "splits", "labels"))


def check(corpora: Sequence[Corpus]) -> None:
    """Raise InputError if schemes of one name, or tables of one name, do not go together."""
    for scheme in schemes(corpora):
        first, *others = ((corpus.path, corpus.labels(scheme)) for corpus in having(corpora, scheme))
        for other in others:
            _check_scheme(scheme, first, other)
    for table in _tables(corpora):
        files = [corpus.path / table for corpus in corpora if (corpus.path / table).is_file()]
        for file in files[1:]:
            heads = [_read_table(path)[0] for path in (files[0], file)]
            if heads[0] != heads[1]:
                remedy = "make both in one way, or take them out of the parts"
                raise InputError(f"parts: {files[0]} and {file} begin with {' and '.join(heads)}; {remedy}")


def left_behind(corpora: Sequence[Corpus]) -> list[Path]:
    """What else lies in the corpora, and is not joined."""
    carried = {file for corpus in corpora for pattern in FILES for file in corpus.path.glob(pattern)}
    carried |= {file.with_suffix(".parquet") for file in carried if file.suffix == ".json"}
    places = (place for corpus in corpora for place in (corpus.path, corpus.path / "labels", corpus.path / "splits"))
    found = {path for place in places if place.is_dir() for path in place.iterdir()}
    return sorted(path for path in found - carried if path.name not in MADE)


def write(corpora: Sequence[Corpus], out: Path) -> None:
    """Write the joined splits, tables and labels into `out`; what a killed run has left complete stays."""
    for name in sorted({name for corpus in corpora for name in corpus.splits()}):
        if not (target := out / "splits" / f"{name}.txt").is_file():
            _join_splits([corpus.path / "splits" / target.name for corpus in corpora], target)
    for table in _tables(corpora):
        if not (out / table).is_file():
            _join_tables([corpus.path / table for corpus in corpora], out / table)
    for scheme in schemes(corpora):
        if not (out / "labels" / f"{scheme}.json").is_file():
            _join_labels(having(corpora, scheme), scheme, out)


def schemes(corpora: Sequence[Corpus]) -> list[str]:
    """Names of the labelling schemes that any of the corpora has."""
    return sorted({file.stem for corpus in corpora for file in (corpus.path / "labels").glob("*.json")})


def having(corpora: Sequence[Corpus], scheme: str) -> list[Corpus]:
    """Those of the corpora that have a scheme."""
    return [corpus for corpus in corpora if (corpus.path / "labels" / f"{scheme}.json").is_file()]


def _check_scheme(scheme: str, one: tuple[Path, Alignment], other: tuple[Path, Alignment]) -> None:
    (first_path, first), (second_path, second) = one, other
    if first.inventory != second.inventory and not _is_open(scheme):
        pairs = enumerate(zip_longest(first.inventory, second.inventory, fillvalue="none"))
        place, names = next((place, names) for place, names in pairs if names[0] != names[1])
        what = f"inventories: class {place} is {' and '.join(names)}"
    elif first.source != second.source:
        what = f"sources: {first.source} and {second.source}"
    else:
        return
    remedy = f"label the parts alike, or take labels/{scheme}.json out of them and label what they are merged into"
    raise InputError(f"labels={scheme}: {first_path} and {second_path} have different {what}; {remedy}")


def _join_splits(paths: Sequence[Path], target: Path) -> None:
    """One list of ids, sorted: the order of a list that was cut into parts cannot be told from these."""
    import pyarrow as pa

    lists = [pa.array(shards.read_ids(path), pa.string()) for path in paths if path.is_file()]
    ids: Any = pa.concat_arrays(lists).sort()
    with atomic(target) as file:
        for start in range(0, len(ids), 1 << 16):
            file.write("".join(f"{id}\n" for id in ids[start : start + (1 << 16)].to_pylist()).encode())


def _tables(corpora: Sequence[Corpus]) -> list[str]:
    """Text tables that any of the corpora has, by their path within it."""
    found = (file.relative_to(corpus.path) for corpus in corpora for p in TABLES for file in corpus.path.glob(p))
    return sorted({path.as_posix() for path in found})


def _read_table(path: Path) -> tuple[str, list[str]]:
    """The first line, and the others."""
    head, *lines = path.read_text(encoding="utf-8").split("\n")
    return head, [line for line in lines if line]


def _join_tables(paths: Sequence[Path], target: Path) -> None:
    """The lines of all tables by their first column; of labels, lines that parts have in common (words) once."""
    tables = [_read_table(path) for path in paths if path.is_file()]
    lines: Iterable[str] = (line for _, lines in tables for line in lines)
    if target.parent.name == "labels":
        lines = set(lines)
    ordered = sorted(lines, key=_objects_key if target.suffix == ".jsonl" else _columns_key)
    with atomic(target) as file:
        file.writelines(f"{line}\n".encode() for line in (tables[0][0], *ordered))


def _columns_key(line: str) -> list[str]:
    return line.split("\t", 1)


def _objects_key(line: str) -> tuple[Any, str]:
    """By the first value of a JSON object, such as the path of a recording."""
    return next(iter(json.loads(line).values())), line


def _is_open(scheme: str) -> bool:
    """Whether the classes of a scheme are the words that occur, so that every corpus has its own."""
    return scheme == "words" or scheme.endswith("_words")


def _join_labels(corpora: Sequence[Corpus], scheme: str, out: Path) -> None:
    """Write labels/SCHEME.parquet and .json, a group of utterances in memory for each part."""
    alignments = [corpus.labels(scheme) for corpus in corpora]
    inventory = alignments[0].inventory
    if _is_open(scheme):
        inventory = sorted({name for alignment in alignments for name in alignment.inventory})
    rows = heapq.merge(*(_renumbered(each, inventory) for each in alignments), key=attrgetter("id"))
    provenance = _join_provenance([alignment.provenance for alignment in alignments])
    write_alignment(out, scheme, rows, inventory, alignments[0].source, provenance)


def _renumbered(alignment: Alignment, inventory: Sequence[str]) -> Iterator[AlignedRow]:
    """Rows whose labels are places in another inventory, which holds every name of their own."""
    if alignment.inventory == inventory:
        yield from alignment
        return
    place = {name: number for number, name in enumerate(inventory)}
    places = np.array([place[name] for name in alignment.inventory], dtype=np.int32)
    for row in alignment:
        yield row._replace(labels=places[row.labels])


def _join_provenance(given: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the parts say alike, and under `parts` what each says by itself, parts of parts among them."""
    leaves = list(_leaves(given))
    alike = [key for key, value in leaves[0].items() if all(key in leaf and leaf[key] == value for leaf in leaves)]
    shared = {key: leaves[0][key] for key in alike}
    own = [{key: value for key, value in leaf.items() if key not in shared} for leaf in leaves]
    own.sort(key=json.dumps)  # so that it does not matter which parts were merged first
    return shared | ({"parts": own} if any(own) else {})


def _leaves(given: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for provenance in given:
        whole = {key: value for key, value in provenance.items() if key != "parts"}
        yield from (whole | leaf for leaf in provenance.get("parts", [{}]))


# --- Join packed corpora into one: the parts of a corpus that several machines packed, or corpora of one kind.


class MergeReport(NamedTuple):
    """What is in the merged corpus; not `fresh` if all was there.

    `copied` of the `shards` were copied, the others are hard links; `splits` gives the ids of each split, `labels`
    the labelled utterances of each scheme, `without` the parts that a scheme says nothing about, and `left` what else
    lies in the parts and was left there.
    """

    utterances: int
    skipped: int
    seconds: float
    shards: int
    copied: int
    splits: dict[str, int]
    labels: dict[str, int]
    without: dict[str, list[Path]]
    left: list[Path]
    fresh: bool = True


@dataclass(frozen=True)
class _Job:
    """What to merge, in an order that does not depend on how it was asked for, and where."""

    parts: Sequence[Corpus]
    info: Sequence[dict[str, Any]]  # corpus.json of each part
    out: Path
    identity: str


def merge(parts: Sequence[Path], out: Path, *, link: bool = True, progress: bool = True) -> MergeReport:
    """Merge packed corpora of one sample rate into one at `out`, with splits, labels and lists of skipped files.

    Rows are sorted by id. Shards are hard links to those of the parts where `link` and the file system allow it,
    else copies: the parts stay whole, and either may be deleted. Splits of one name become one, sorted by id; a
    scheme of labels must have the same inventory and source in every part that has it. The order of `parts` does
    not matter, and neither does merging some of them first, for the manifest, the shards and the digest: it hashes
    the sorted digests of the corpora that were once packed. A killed merge, started again, ends with the same bytes.

    Raises InputError for parts that are missing, unfinished, given twice or do not go together, for ids that are
    in two parts, and for an `out` that holds something else or cannot be written. Nothing is written before all
    that is known to be right.
    """
    job = _plan(parts, Path(out))
    if _finished(job):
        shutil.rmtree(work_folder(job.out), ignore_errors=True)  # a kill may have come after the last write
        return _report(job, copied=0, fresh=False)
    order = find_order(job.parts)
    check_files(order, job.parts)
    check(job.parts)
    try:
        with claimed(job.out) as work:
            _begin(job, work)
            copied = _take_shards(job, order, link, progress)
            write_manifest(order, job.parts, job.out / "manifest.parquet")
            write(job.parts, job.out)
            _write_info(job, order)
        shutil.rmtree(work)
    except OSError as error:
        remedy = "mend that and run the same again: what is merged stays"
        raise InputError(f"out={out}: merging stopped at {error.filename} ({error.strerror}); {remedy}") from error
    return _report(job, copied, fresh=True)


def _plan(paths: Sequence[Path], out: Path) -> _Job:
    corpora = [_open(Path(path)) for path in paths]
    if not any(map(len, corpora)):
        raise InputError("parts: there is no utterance to merge; name packed corpora that hold some")
    if len({corpus.path.resolve() for corpus in corpora}) < len(corpora):
        raise InputError(f"parts={' '.join(map(str, paths))}: one is given twice; name each once")
    if len({corpus.sample_rate for corpus in corpora}) > 1:
        rates = ", ".join(f"{corpus.path} is at {corpus.sample_rate} Hz" for corpus in corpora)
        raise InputError(f"parts: sample rates differ: {rates}; pack them again at one rate")
    states = sorted((_state(corpus), place) for place, corpus in enumerate(corpora))
    corpora = [corpora[place] for _, place in states]
    info = [json.loads((corpus.path / "corpus.json").read_text(encoding="utf-8")) for corpus in corpora]
    kind = [shards.FORMAT, corpora[0].sample_rate, *(state for state, _ in states)]
    return _Job(corpora, info, out, hashlib.sha256(json.dumps(kind).encode()).hexdigest())


def _open(path: Path) -> Corpus:
    if work_folder(path).is_dir() and not (path / "corpus.json").is_file():
        raise InputError(f"part={path}: is not finished; run again the command that makes it, then merge")
    return Corpus.open(path)


def _state(corpus: Corpus) -> list[Any]:
    """First id, digest, and a checksum of each small file: what sorts the parts and tells when one has changed."""
    files = sorted(file for pattern in FILES for file in corpus.path.glob(pattern))
    sums = {str(file.relative_to(corpus.path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return [corpus.column("id")[0].as_py() if len(corpus) else "", corpus.digest, sorted(sums.items())]


def _finished(job: _Job) -> bool:
    """Whether `out` is the merged corpus already; InputError if it is another."""
    corpus = job.out / "corpus.json"
    if not corpus.is_file():
        return False
    if json.loads(corpus.read_text(encoding="utf-8")).get("plan") != job.identity:
        raise taken(job.out, "a packed corpus of something else, or these parts were changed since")
    return True


def _begin(job: _Job, work: Path) -> None:
    """Leave word of what is being merged; InputError if a killed run was about something else."""
    plan = work / "plan.json"
    if not plan.is_file():
        write_json(plan, {"digest": job.identity})
    if json.loads(plan.read_text(encoding="utf-8"))["digest"] != job.identity:
        raise taken(job.out, "what is unfinished of other parts, or of these before they were changed")


def _take_shards(job: _Job, order: Order, link: bool, progress: bool) -> int:
    """Link or copy every shard that is not there yet; how many of all are copies."""
    copied = 0
    with show_progress("merging shards", len(order.shards), job.parts[0].sample_rate, progress) as state:
        for number, (part, shard) in enumerate(order.shards):
            source = shards.shard_path(job.parts[part].path, shard).resolve()
            target = shards.shard_path(job.out, number)
            if not target.is_file():
                _take(source, target, link)
            copied += not target.samefile(source)
            state.tick(int(order.ends[number]))
    return copied


def _take(source: Path, target: Path, link: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        target.with_name(f"{target.name}.tmp").unlink(missing_ok=True)  # of a run that was killed while it copied
        try:
            os.link(source, target)
        except OSError:
            pass  # another disk, a file system without links, or too many of them
        else:
            return
    with source.open("rb") as given, atomic(target) as file:
        shutil.copyfileobj(given, file, 1 << 20)


def _write_info(job: _Job, order: Order) -> None:
    """Write corpus.json, which makes the folder a corpus."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    speakers = pq.read_table(job.out / "manifest.parquet", columns=["speaker"], memory_map=True)["speaker"]
    packed = sorted(digest for info in job.info for digest in info.get("parts", [info["digest"]]))
    digest = hashlib.sha256(json.dumps([job.parts[0].sample_rate, *packed]).encode()).hexdigest()
    info = {
        "format": shards.FORMAT,
        "sample_rate": job.parts[0].sample_rate,
        "utterances": len(order.rows),
        "samples": sum(info["samples"] for info in job.info),
        "speakers": len(set(pc.unique(speakers).to_pylist()) - {""}),
        "skipped": sum(info["skipped"] for info in job.info),
        "shards": len(order.shards),
        "digest": digest if len(packed) > 1 else packed[0],
        "plan": job.identity,
        "parts": packed,  # digests of the corpora that were packed
    }
    write_json(job.out / "corpus.json", info)


def _report(job: _Job, copied: int, fresh: bool) -> MergeReport:
    corpus = Corpus.open(job.out)
    info = json.loads((job.out / "corpus.json").read_text(encoding="utf-8"))
    labels = {scheme: len(corpus.labels(scheme)) for scheme in schemes([corpus])}
    has = {scheme: having(job.parts, scheme) for scheme in labels}
    return MergeReport(
        len(corpus),
        info["skipped"],
        info["samples"] / corpus.sample_rate,
        info["shards"],
        copied,
        {name: len(shards.read_ids(job.out / "splits" / f"{name}.txt")) for name in corpus.splits()},
        labels,
        {scheme: [part.path for part in job.parts if part not in found] for scheme, found in has.items()},
        left_behind(job.parts),
        fresh,
    )
