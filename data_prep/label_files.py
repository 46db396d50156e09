"""Label files of a folder, one an utterance: found, matched to the corpus by name, read in parallel."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import typer

from cpc.audio.decode import SUFFIXES
from cpc.config import InputError
from cpc.data.alignment import AlignedRow, write_alignment
from cpc.data.corpus import Corpus

from .processes import spread

T = TypeVar("T")
FEW = 1000  # files that one process has read by the time that others have started


class Matched(NamedTuple):
    """Which file labels which utterance, in the order of ids; files of no utterance."""

    pairs: list[tuple[str, Path]]
    unknown: list[Path]


class FileLabels(NamedTuple, Generic[T]):
    """What one file said, or why it could not be read; the sha256 of its bytes."""

    id: str
    path: Path
    value: T | None
    reason: str
    sha256: str


def find_labels(folder: Path, suffix: str) -> list[Path]:
    """Every file below `folder` that ends in `suffix` in any case, sorted; hidden names are skipped.

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


def read_files(pairs: Sequence[tuple[str, Path]], read: Callable[[Path], T], workers: int) -> Iterator[FileLabels[T]]:
    """Read every file, in the order of `pairs`, in `workers` processes where that is worth starting them.

    `read` raises InputError for a file that is broken: its message, without the path, becomes the reason.
    """
    jobs = [(id, path, read) for id, path in pairs]
    return spread(_read_one, jobs, workers if len(jobs) >= FEW else 1, chunksize=64)


def _read_one(job: tuple[str, Path, Callable[[Path], T]]) -> FileLabels[T]:
    id, path, read = job
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        return FileLabels(id, path, None, f"cannot be read ({error.strerror})", "")
    try:
        return FileLabels(id, path, read(path), "", sha256)
    except InputError as error:
        return FileLabels(id, path, None, " ".join(str(error).split()).removeprefix(f"{path}: "), sha256)


def checksum(read: Iterable[tuple[str, str]]) -> str:
    """One sha256 for many files: of the sorted lines `name sha256`."""
    lines = sorted(f"{name} {sha256}\n" for name, sha256 in read)
    return hashlib.sha256("".join(lines).encode("utf-8", "backslashreplace")).hexdigest()


# --- Labels meet the audio that they claim to describe: what fits is written, too much that does not is refused.


TOLERANCE = 0.05  # seconds by which labels and audio may differ in length
MOST_MISFITS = 0.01  # of the utterances that are in the corpus
EXAMPLES = 3


class Unread(NamedTuple):
    """An utterance whose labels could not be read, and why."""

    id: str
    reason: str


@dataclass
class Labels:
    """A labelling scheme on its way into a corpus.

    `origin` is the file or folder as the user named it, `early` the seconds by which labels may end before their
    audio (the last label is taken to last until its end). `ends` is where what was labelled ends, in utterances whose
    last label may end before: what follows it is unlabelled. `unknown` are the ids or files that are already known not
    to be of this corpus.
    """

    scheme: str
    rows: Iterable[AlignedRow | Unread]
    inventory: Sequence[str]
    source: str
    provenance: Mapping[str, object]
    origin: str
    early: float = TOLERANCE
    note: str = ""
    unknown: list[str] = field(default_factory=list)
    ends: Mapping[str, float] = field(default_factory=dict)

    def end(self, row: AlignedRow) -> float:
        """Seconds from the start of the audio to where what the labels describe ends."""
        return self.ends.get(row.id, float(row.offsets[-1]) if len(row.offsets) else 0.0)


def take(corpus: Corpus, labels: Labels, *, partial: bool = False) -> int:
    """Write the labels that fit and say what came of it; the number of utterances labelled.

    Raises InputError if the scheme is refused: then nothing is written and a scheme of that name stays as it was.
    """
    check_scheme(labels.scheme)
    tally = _MatchCounter(corpus, labels, partial)
    # The verdict comes with the last row, before anything has its final name.
    count = write_alignment(
        corpus.path, labels.scheme, tally.fitting(), labels.inventory, labels.source, labels.provenance
    )
    tally.say(count)
    return count


def check_scheme(name: str) -> None:
    """Raise InputError for a scheme's name that is no plain file name."""
    if not re.fullmatch(r"[\w-]+", name):
        raise InputError(f"scheme={name!r}: must be letters, digits, _ and -, for example phones_mfa")


class _MatchCounter:
    """Counts while rows stream past."""

    def __init__(self, corpus: Corpus, labels: Labels, partial: bool) -> None:
        self.corpus, self.labels, self.partial = corpus, labels, partial
        self.durations = dict(zip(corpus.ids, (corpus.samples / corpus.sample_rate).tolist(), strict=True))
        self.unknown = list(labels.unknown)
        self.known = 0
        self.misfits: list[Unread] = []

    def fitting(self) -> Iterator[AlignedRow]:
        for row in self.labels.rows:
            if row.id not in self.durations:
                self.unknown.append(row.id)
                continue
            self.known += 1
            if isinstance(row, Unread):
                self.misfits.append(row)
            elif reason := self._misfit(row):
                self.misfits.append(Unread(row.id, reason))
            else:
                yield _fit(row, self.labels.end(row), self.durations[row.id])
        self._evaluate()

    def _misfit(self, row: AlignedRow) -> str:
        end, duration = self.labels.end(row), self.durations[row.id]
        # Half a nanosecond: 50 ms as a difference of two sums of floats.
        fits = -self.labels.early <= end - duration + 5e-10 and end - duration <= TOLERANCE + 5e-10
        return "" if fits else f"labels {end:.3f} s, audio {duration:.3f} s"

    def _evaluate(self) -> None:
        total, wrong = self.known + len(self.unknown), len(self.misfits)
        if not self.known:
            raise self._refused(f"none of its {total} ids is in {self.corpus.path}{self._unknown()}", "")
        if wrong == self.known:
            raise self._refused(f"none of the {wrong} utterances fits its audio{self._wrong()}", "")
        if self.partial:
            return
        if 2 * self.known < total and 2 * self.known < len(self.corpus):
            counts = f"only {self.known} of its {total} ids are in {self.corpus.path}{self._unknown()}"
            raise self._refused(counts, f"to take these {self.known} all the same give --partial")
        if wrong > max(1, MOST_MISFITS * self.known):
            counts = f"{wrong} of {self.known} utterances do not fit their audio{self._wrong()}"
            raise self._refused(counts, f"to take the other {self.known - wrong} all the same give --partial")

    def _refused(self, counts: str, remedy: str) -> InputError:
        labels, held = self.labels, self.corpus.path / "labels" / f"{self.labels.scheme}.json"
        kept = "the labels of that name stay as they were" if held.is_file() else "nothing was written"
        remedy = remedy or "is it the right corpus?"
        return InputError(f"{labels.origin}: refused as `{labels.scheme}`: {counts}; {kept}; {remedy}")

    def _unknown(self) -> str:
        return f" (unknown: {_examples(self.unknown)})" if self.unknown else ""

    def _wrong(self) -> str:
        return f", for example {_examples([f'{id}: {reason}' for id, reason in self.misfits])}"

    def say(self, count: int) -> None:
        labels, unknown = self.labels, len(self.unknown)
        note = f", {labels.note}" if labels.note else ""
        counts = f"{count} of {len(self.corpus)} utterances labelled, {unknown} unknown ids skipped"
        typer.echo(f"  {labels.scheme}: {counts}, {len(labels.inventory)} classes{note}")
        if unknown:
            typer.echo(f"  unknown ids: {_examples(self.unknown)}")
        if self.misfits:
            rule = "they cannot be read or differ in length from the audio"
            typer.echo(f"  refused the labels of {len(self.misfits)} utterances: {rule}{self._wrong()}")


def _examples(words: Sequence[str]) -> str:
    return "; ".join(words[:EXAMPLES]) + ("; …" if len(words) > EXAMPLES else "")


def _fit(row: AlignedRow, end: float, duration: float) -> AlignedRow:
    """The intervals that begin inside the audio; one that lasts until the `end` of the labels, to the audio's end."""
    count = int(np.searchsorted(row.onsets, duration))
    offsets = np.minimum(row.offsets[:count], duration)
    if len(offsets) and row.offsets[count - 1] >= min(end, duration):
        offsets[-1] = duration
    return AlignedRow(row.id, row.onsets[:count], offsets, row.labels[:count])
