"""Which frames an item has: those whose centre in time lies within it.

With frame i centred at (i + ½) Δt these are ⌈onset/Δt − ½⌉ … ⌊offset/Δt − ½⌋, both included (ABXpy; fastabx, "Slicing
features"). Libri-Light's code leaves the last of them out, which makes the items shorter and the numbers better
(HuBERT, dev-clean: 3.06% instead of 3.38%): `librilight` is that, for comparison with what was published with it.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, NamedTuple, Unpack

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64, Shaped

from cpc.config import InputError
from cpc.data.alignment import AlignedRow
from cpc.data.corpus import Corpus
from cpc.data.splits import has_speaker
from cpc.evaluation.features import Extraction, Features, FrameTable, extract_group
from cpc.evaluation.phones import silent_classes
from cpc.io import write_text

Slicing = Literal["centre", "librilight"]
TOLERANCE = 1e-7  # seconds: a centre that falls on an edge is inside, whatever way both were rounded


def slice_frames(
    onsets: Float64[np.ndarray, " item"],
    offsets: Float64[np.ndarray, " item"],
    centres: Float64[np.ndarray, " frames_and_next"],
    slicing: Slicing = "centre",
) -> tuple[Int64[np.ndarray, " item"], Int64[np.ndarray, " item"]]:
    """First frame, and number of frames, of each item of one utterance; an item may have none.

    `centres` are the times of the utterance's frames and of the one that would follow, in seconds: Libri-Light's
    code drops the last frame of an item even where the audio goes no further, but not where the item goes on.
    """
    present = len(centres) - 1
    start = np.searchsorted(centres, onsets - TOLERANCE, side="left")
    stop = np.searchsorted(centres, offsets + TOLERANCE, side="right")
    if slicing == "librilight":
        stop -= 1
    start, stop = np.minimum(start, present), np.minimum(stop, present)
    return start.astype(np.int64), np.maximum(stop - start, 0).astype(np.int64)


# --- ABX items: stretches of speech, each with its phone, the phones beside it and its speaker.


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


# --- What an ABX session is about: items, and the utterances of a corpus that they are in.


@dataclass(frozen=True)
class ABXData:
    """`rows` of the corpus are those that have items. `unit` is "items" where they were read from a file,
    and `labels` the alignment where they were not."""

    corpus: Corpus
    rows: Int64[np.ndarray, " utterance"]
    items: Items
    unit: str
    split: str
    notes: tuple[str, ...] = ()
    labels: str = "phones"

    @property
    def digest(self) -> str:
        """A hash of the items and of the audio."""
        digest = hashlib.sha256(self.corpus.digest.encode())
        for field in fields(self.items):
            digest.update("\n".join(map(str, getattr(self.items, field.name).tolist())).encode())
        return digest.hexdigest()


def aligned_material(corpus: Corpus, unit: Unit, split: str | None = None, labels: str = "phones") -> ABXData:
    """Items from the alignment of a corpus: of all of it, or of a split, a file of ids, or one of its subsets.

    Raises InputError for an unknown split and where no items can be made.
    """
    rows = _rows(corpus, split)
    items = corpus_items(corpus, rows, unit, labels)
    alignment = corpus.labels(labels)
    missing = sum(corpus.ids[row] not in alignment for row in rows.tolist())
    notes: tuple[str, ...] = (f"{missing} of {len(rows)} utterances have no labels: skipped.",) if missing else ()
    if nobody := int(np.count_nonzero(~has_speaker(corpus, rows))):
        notes += (f"{nobody} of {len(rows)} utterances have no known speaker: skipped.",)
    return ABXData(corpus, _used(corpus, items), items, unit, split or "", notes)


def listed_material(corpus: Corpus, file: Path) -> ABXData:
    """Items of an `.item` file whose files are ids of the corpus. Raises InputError for ids that it does not have."""
    items = read_items(file)
    return ABXData(corpus, _used(corpus, items), items, "items", file.stem)


def _rows(corpus: Corpus, split: str | None) -> Int64[np.ndarray, " utterance"]:
    if split is None:
        return np.arange(len(corpus))
    if split in corpus.subsets and split not in corpus.splits():
        return np.flatnonzero(np.array(corpus.subsets) == split)
    try:
        return np.unique(corpus.rows(split))
    except InputError as error:
        subsets = ", ".join(sorted(set(corpus.subsets) - {""}))
        raise InputError(f"{error}" + (f" (subsets: {subsets})" if subsets else "")) from None


def _used(corpus: Corpus, items: Items) -> Int64[np.ndarray, " utterance"]:
    return np.unique(corpus.rows(np.unique(items.files).tolist()))


# --- Where the frames come from: features of a corpus's utterances, or a folder of arrays, found by name of file.


Rows = Int64[np.ndarray, " utterance"]


@dataclass(frozen=True)
class FeatureStore:
    """The frames of named utterances, and the times of their centres (seconds) by the number of frames."""

    name: str
    table: FrameTable
    places: Mapping[str, int]
    centres: Callable[[int], Float64[np.ndarray, " frame"]]

    def slice(
        self, items: Items, slicing: Slicing = "centre"
    ) -> tuple[Int64[np.ndarray, " item"], Int64[np.ndarray, " item"]]:
        """First row in the table, and number of frames, of each item; some may have none.

        Raises InputError for items of files that are not in the bank.
        """
        files, which = np.unique(items.files, return_inverse=True)
        if missing := [file for file in files.tolist() if file not in self.places]:
            rule = f"{len(missing)} of {len(files)} files have no features, for example {', '.join(missing[:3])}"
            raise InputError(f"items: {rule}; add them to {self.name} or leave their items out")
        starts, counts = np.empty(len(items), np.int64), np.empty(len(items), np.int64)
        order = np.argsort(which, kind="stable")
        for members in np.split(order, np.cumsum(np.bincount(which))[:-1]):
            place = self.places[str(items.files[members[0]])]
            centres = self.centres(int(self.table.counts[place]) + 1)
            inside = slice_frames(items.onsets[members], items.offsets[members], centres, slicing)
            starts[members], counts[members] = self.table.offsets[place] + inside[0], inside[1]
        return starts, counts


def corpus_banks(
    group: Sequence[Features], corpus: Corpus, rows: Rows, **how: Unpack[Extraction]
) -> list[FeatureStore]:
    """Features of some rows of a corpus, by `extract_group`."""
    tables = extract_group(group, corpus, rows, **how)
    places = {corpus.ids[row]: place for place, row in enumerate(rows.tolist())}
    return [
        FeatureStore(each.name, table, places, each.frame_centres) for each, table in zip(group, tables, strict=True)
    ]


def folder_bank(folder: Path, files: Iterable[str], hop: float, first_centre: float | None = None) -> FeatureStore:
    """Arrays FILE.npy (frames × dim) anywhere in `folder`, as `cpc embed` writes them.

    A file is named by its path in the folder without .npy, or by its last part where that is unambiguous. Frame i is
    centred at first_centre + i · hop seconds; without `first_centre`, in the middle of its hop.
    Raises InputError for missing or ambiguous files and for arrays that are not frames × dim.
    """
    if not hop > 0:
        raise InputError(f"hop={hop}: must be the seconds from one frame to the next, for example 0.01")
    found = _index(folder)
    names = sorted(set(files))
    if missing := [name for name in names if name not in found]:
        rule = f"{len(missing)} of {len(names)} files have no .npy, for example {', '.join(missing[:3])}"
        raise InputError(f"features={folder}: {rule}")
    arrays = [_read(found[name], name) for name in names]
    if len(dims := {array.shape[1] for array in arrays}) != 1:
        raise InputError(f"features={folder}: the arrays have different dimensions {sorted(dims)}; extract them alike")
    offsets = np.concatenate([[0], np.cumsum([len(array) for array in arrays])])
    table = FrameTable(torch.from_numpy(np.concatenate(arrays)), offsets)
    start = hop / 2 if first_centre is None else first_centre
    return FeatureStore(
        str(folder), table, {name: i for i, name in enumerate(names)}, lambda n: start + hop * np.arange(n)
    )


def _index(folder: Path) -> dict[str, Path | None]:
    """Files by their path and by their last part; None for a last part that several have."""
    paths = sorted(folder.rglob("*.npy"))
    if not paths:
        raise InputError(f"features={folder}: holds no .npy; write them with cpc embed")
    found: dict[str, Path | None] = {}
    for path in paths:
        found[path.stem] = None if path.stem in found else path
    return found | {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def _read(path: Path | None, name: str) -> Float32[np.ndarray, "frame dim"]:
    if path is None:
        raise InputError(f"features: several files are called {name}.npy; name them by their path in the .item file")
    try:
        array: np.ndarray = np.load(path)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: not an array of NumPy ({error}); write it with cpc embed") from None
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"{path}: has shape {array.shape} and type {array.dtype}; must be frames × dim, floating")
    return array.astype(np.float32)
