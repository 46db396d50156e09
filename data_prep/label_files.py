"""Label files of a folder, one an utterance: found, matched to the corpus by name, read in parallel."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from cpc.audio import SUFFIXES
from cpc.config import InputError
from data_prep.processes import spread

T = TypeVar("T")
FEW = 1000  # files that one process has read by the time that others have started


class Matched(NamedTuple):
    """Which file labels which utterance, in the order of ids; files of no utterance."""

    pairs: list[tuple[str, Path]]
    unknown: list[Path]


class Read(NamedTuple, Generic[T]):
    """What one file said, or why it could not be read; the sha256 of its bytes."""

    id: str
    path: Path
    value: T | None
    reason: str
    sha256: str


def find_labels(folder: Path, suffix: str) -> list[Path]:
    """Every file below `folder` that ends in `suffix` in any case, sorted; hidden names are left out.

    Raises InputError if the folder does not exist or holds no such file.
    """
    if not folder.is_dir():
        raise InputError(f"folder={folder}: no such folder; give the one that holds the {suffix} files")
    found = []
    for place, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [Path(place, name) for name in names if name.lower().endswith(suffix.lower()) and name[0] != "."]
    if not found:
        raise InputError(f"folder={folder}: holds no {suffix} file, nor does any folder below it")
    return sorted(found)


def match_files(files: Iterable[Path], ids: Sequence[str]) -> Matched:
    """Give each file to the utterance that is named after it, or after the end of its path.

    `1272/1272-128104-0000.TextGrid` is of utterance 1272-128104-0000; `TRAIN/DR1/FCJF0/SA1.PHN` of the id that the
    longest end of its path makes with '-' for '/', for example TRAIN-DR1-FCJF0-SA1. Case does not matter, nor does
    an audio suffix in the id. Raises InputError where two files would label one utterance.
    """
    known: dict[str, list[str]] = {}
    for id in ids:
        known.setdefault(_key(id), []).append(id)
    owner: dict[str, Path] = {}
    unknown = []
    for file in files:
        if not (found := _owned(file, known)):
            unknown.append(file)
        for id in found:
            if id in owner:
                remedy = "remove or rename one, or name the folder that holds only one"
                raise InputError(f"id={id}: two files would label it: {owner[id]} and {file}; {remedy}")
            owner[id] = file
    return Matched(sorted(owner.items()), unknown)


def _key(id: str) -> str:
    stem, dot, suffix = id.casefold().rpartition(".")
    return stem if f"{dot}{suffix}" in SUFFIXES else id.casefold()


def _owned(file: Path, known: dict[str, list[str]]) -> list[str]:
    parts = [part.casefold() for part in (*file.absolute().parts[1:-1], file.stem)]
    names = ("-".join(parts[start:]) for start in range(len(parts)))
    return next((known[name] for name in names if name in known), [])


def read_files(pairs: Sequence[tuple[str, Path]], read: Callable[[Path], T], workers: int) -> Iterator[Read[T]]:
    """Read every file, in the order of `pairs`, in `workers` processes where that is worth starting them.

    `read` raises InputError for a file that is broken: its message, without the path, becomes the reason.
    """
    jobs = [(id, path, read) for id, path in pairs]
    return spread(_read_one, jobs, workers if len(jobs) >= FEW else 1, chunksize=64)


def _read_one(job: tuple[str, Path, Callable[[Path], T]]) -> Read[T]:
    id, path, read = job
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        return Read(id, path, None, f"cannot be read ({error.strerror})", "")
    try:
        return Read(id, path, read(path), "", sha256)
    except InputError as error:
        return Read(id, path, None, " ".join(str(error).split()).removeprefix(f"{path}: "), sha256)


def checksum(read: Iterable[tuple[str, str]]) -> str:
    """One sha256 for many files: of the sorted lines `name sha256`."""
    lines = sorted(f"{name} {sha256}\n" for name, sha256 in read)
    return hashlib.sha256("".join(lines).encode("utf-8", "backslashreplace")).hexdigest()
