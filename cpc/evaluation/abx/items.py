"""ABX items: stretches of speech, each with its phone, the phones beside it and its speaker.

They are made from the alignment of a corpus, or read from an `.item` file of ABXpy, ZeroSpeech and Libri-Light, and
can be written as one. A triphone item lasts from the onset of the phone before to the offset of the phone after it,
a phone item as long as the phone; either way an item belongs to the phone in the middle. Items of which one of the
three is silence or noise are left out (abkhazia's `alignment2item`, which made the files of ZeroSpeech; the files of
Libri-Light follow the same rule: they begin after the first phone of an utterance).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

from cpc.config import InputError
from cpc.corpus import AlignedRow, Corpus
from cpc.evaluation.phones import silent_classes
from cpc.files import write_text

Unit = Literal["triphone", "phone"]
COLUMNS = ("#file", "onset", "offset", "#phone", "prev-phone", "next-phone", "speaker")
LARGEST_GAP = 1e-3  # seconds between two intervals that still count as neighbours

Names = Shaped[np.ndarray, " item"]


@dataclass(frozen=True)
class Items:
    """Columns of equal length; onsets and offsets in seconds from the start of the file."""

    files: Names
    onsets: Float64[np.ndarray, " item"]
    offsets: Float64[np.ndarray, " item"]
    phones: Names
    previous: Names
    following: Names
    speakers: Names

    def __len__(self) -> int:
        return len(self.files)

    def take(self, places: Int64[np.ndarray, " kept"] | Bool[np.ndarray, " item"]) -> "Items":
        """Some of the items."""
        return Items(*(getattr(self, field.name)[places] for field in fields(self)))


class _Line(NamedTuple):
    file: str
    onset: float
    offset: float
    phone: str
    previous: str
    following: str
    speaker: str


def _items(lines: list[_Line]) -> Items:
    columns = list(zip(*lines, strict=True)) or [()] * len(COLUMNS)
    types = [np.float64 if name in ("onset", "offset") else np.str_ for name in COLUMNS]
    return Items(*(np.array(column, dtype=kind) for column, kind in zip(columns, types, strict=True)))


def corpus_items(
    corpus: Corpus,
    rows: Int64[np.ndarray, " utterance"],
    unit: Unit = "triphone",
    labels: str = "phones",
) -> Items:
    """The items of some rows of a corpus, in their order; utterances without labels or a known speaker have none.

    Raises InputError for missing labels, or if nothing is left.
    """
    alignment = corpus.labels(labels)
    quiet = np.zeros(len(alignment.inventory), dtype=bool)
    quiet[silent_classes(alignment.inventory, alignment.silences)] = True
    lines: list[_Line] = []
    for row in rows.tolist():
        if (id := corpus.ids[row]) in alignment:
            if not corpus.speakers[row]:
                continue  # ABX compares speakers, and unknown is none
            lines += _utterance(alignment.intervals(id), alignment.inventory, quiet, unit, corpus.speakers[row])
    if not lines:
        rule = "three neighbouring phones none of which is silence or noise occur nowhere"
        raise InputError(f"labels={labels}: {rule} in these {len(rows)} utterances of {corpus.path}")
    return _items(lines)


def _utterance(
    row: AlignedRow, inventory: list[str], quiet: Bool[np.ndarray, " label"], unit: Unit, speaker: str
) -> Iterator[_Line]:
    kept = ~quiet[row.labels] & (row.offsets > row.onsets)
    joined = np.abs(row.onsets[1:] - row.offsets[:-1]) <= LARGEST_GAP
    middle = np.flatnonzero(kept[:-2] & kept[1:-1] & kept[2:] & joined[:-1] & joined[1:]) + 1
    reach = 1 if unit == "triphone" else 0
    for place in middle.tolist():
        before, phone, after = (inventory[label] for label in row.labels[place - 1 : place + 2].tolist())
        onset, offset = float(row.onsets[place - reach]), float(row.offsets[place + reach])
        yield _Line(row.id, onset, offset, phone, before, after, speaker)


def read_items(path: Path) -> Items:
    """Read an `.item` file: a line of column names, then `file onset offset phone previous next speaker` a line.

    Raises InputError, with file and line, for a line that is not such.
    """
    if not path.is_file():
        raise InputError(f"items={path}: no such file; give an .item file")
    try:
        text = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path}: not text in UTF-8; an .item file is") from None
    if not text or tuple(text[0].split()) != COLUMNS:
        raise InputError(f"{path}, line 1: must be the column names `{' '.join(COLUMNS)}`")
    lines = [_parse(path, number, line) for number, line in enumerate(text[1:], 2) if line.strip()]
    if not lines:
        raise InputError(f"{path}: holds no items after its column names")
    return _items(lines)


def _parse(path: Path, number: int, line: str) -> _Line:
    where, words = f"{path}, line {number}", line.split()
    if len(words) != len(COLUMNS):
        raise InputError(f"{where}: has {len(words)} words; must be {len(COLUMNS)}: {' '.join(COLUMNS)}")
    try:
        onset, offset = float(words[1]), float(words[2])
    except ValueError:
        raise InputError(f"{where}: onset={words[1]}, offset={words[2]}: must be numbers, in seconds") from None
    if not (0 <= onset < offset and math.isfinite(offset)):
        rule = "must be in order, 0 ≤ onset < offset, in seconds"
        raise InputError(f"{where}: onset={words[1]}, offset={words[2]}: {rule}")
    return _Line(words[0], onset, offset, *words[3:])


def write_items(path: Path, items: Items) -> None:
    """Write an `.item` file, times to a tenth of a microsecond. Raises InputError for names with spaces."""
    lines = [" ".join(COLUMNS)]
    for values in zip(*(getattr(items, field.name).tolist() for field in fields(items)), strict=True):
        words = [_seconds(value) if isinstance(value, float) else value for value in values]
        if any(not word or len(word.split()) != 1 for word in words):
            raise InputError(f"{path}: an .item file cannot hold the item {values}: a name is empty or has a space")
        lines.append(" ".join(words))
    write_text(path, "\n".join(lines) + "\n")


def _seconds(time: float) -> str:
    """7 decimals say 1/16000 s exactly."""
    return f"{time:.7f}".rstrip("0").rstrip(".")
