"""What lies beside the audio of several corpora, in one: splits, labels with their scores, skipped files, cuts."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from cpc.config import InputError
from cpc.corpus import shards
from cpc.corpus.alignment import AlignedRow, Alignment, write_alignment
from cpc.corpus.corpus import Corpus
from cpc.files import atomic

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
