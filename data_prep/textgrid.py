"""TextGrids of the Montreal Forced Aligner: the tiers `phones` and `words`, read by praatio."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import typer
from jaxtyping import Float64
from numpy import ndarray

from cpc.config import InputError
from cpc.data.alignment import AlignedRow
from cpc.data.corpus import Corpus

from .aligner import PHONES, fold
from .label_files import TOLERANCE, FileLabels, Labels, Unread, checksum, find_labels, match_files, read_files, take

PhoneSet = Literal["arpabet", "as-is"]
PAUSE = "<eps>"  # the class of what no word covers
SLACK = 0.01  # seconds by which the last interval may miss the end of its tier and still lasts until there
_TIERS = re.compile(r"<exists>\s*(?:size\s*=\s*)?(\d+)")
_TIER = re.compile(  # class, name, xmin, xmax and the number of entries, in the long format with what each is
    r'"(?:IntervalTier|TextTier)"\s+(?:name\s*=\s*)?"(?:[^"]|"")*"\s+'
    r"(?:xmin\s*=\s*)?[-+.\deE]+\s+(?:xmax\s*=\s*)?[-+.\deE]+\s+"
    r"(?:(?:intervals|points)\s*:\s*size\s*=\s*)?(\d+)"
)


class Tier(NamedTuple):
    """Labels that hold from edges[i] to edges[i + 1] (seconds), from 0 to the end of the tier; None: unlabelled."""

    edges: Float64[ndarray, " labels+1"]
    labels: tuple[str | None, ...]


class TextGrid(NamedTuple):
    """The two tiers of one utterance; `words` is None where there is no such tier."""

    phones: Tier
    words: Tier | None


class _Entry(NamedTuple):
    """An interval, in seconds, and the number of the tier that it lies in."""

    start: float
    stop: float
    text: str
    tier: int


class _Drawn(NamedTuple):
    """A tier of the file: (start, stop, text) of intervals, or (time, text) of points."""

    name: str
    has_intervals: bool
    end: float
    entries: list[tuple[Any, ...]]


def take_textgrids(
    corpus: Corpus,
    folder: Path,
    scheme: str = "phones",
    *,
    phone_set: PhoneSet = "arpabet",
    workers: int = 1,
    partial: bool = False,
) -> None:
    """Take in the TextGrids below a folder as two schemes: phones as `scheme`, and words.

    The words are the scheme `words`, or SCHEME_words beside another scheme than `phones`. Raises InputError if there
    are no TextGrids, or too many do not fit the corpus: see `data_prep.label_files`.
    """
    pairs, strangers = match_files(find_labels(folder, ".TextGrid"), corpus.ids)
    typer.echo(f"{len(pairs) + len(strangers)} TextGrids in {folder}:")
    files = list(read_files(pairs, functools.partial(read_textgrid, phone_set=phone_set), workers))
    provenance = _provenance(files, folder, phone_set)

    def take_tier(name: str, tier: str, own: Sequence[FileLabels[TextGrid]], inventory: Sequence[str]) -> None:
        rows, names = _coded(own, tier, inventory)
        ends = {file.id: float(getattr(file.value, tier).edges[-1]) for file in own if file.value is not None}
        unknown = [file.stem for file in strangers]
        source = f"TextGrids, tier {tier}"
        take(
            corpus,
            Labels(name, rows, names, source, provenance, str(folder), unknown=unknown, ends=ends),
            partial=partial,
        )

    take_tier(scheme, "phones", files, PHONES if phone_set == "arpabet" else ())
    with_words = [file for file in files if file.value is None or file.value.words is not None]
    if any(file.value for file in with_words):
        take_tier("words" if scheme == "phones" else f"{scheme}_words", "words", with_words, ())
    if missing := len(files) - len(with_words):
        typer.echo(f"  {missing} TextGrids have no tier words")


def _provenance(files: Sequence[FileLabels[TextGrid]], folder: Path, phone_set: PhoneSet) -> dict[str, object]:
    return {
        "kind": "textgrid",
        "reader": f"praatio {version('praatio')}",
        "phone_set": phone_set,
        "files": len(files),
        "sha256": checksum((file.path.relative_to(folder).as_posix(), file.sha256) for file in files),
    }


def _coded(
    files: Sequence[FileLabels[TextGrid]], name: str, inventory: Sequence[str]
) -> tuple[list[AlignedRow | Unread], list[str]]:
    """Rows with numbers for labels, and what the numbers mean: `inventory`, or all labels that occur, sorted."""
    tiers: list[tuple[FileLabels[TextGrid], Tier | None]] = [(file, getattr(file.value, name, None)) for file in files]
    names = list(inventory) or sorted(
        {label for _, tier in tiers if tier for label in tier.labels if label is not None}
    )
    place = {label: number for number, label in enumerate(names)}
    rows: list[AlignedRow | Unread] = []
    for file, tier in tiers:
        if tier is None:
            rows.append(Unread(file.id, f"{file.path.name}: {file.reason}"))
            continue
        held = [number for number, label in enumerate(tier.labels) if label is not None]
        labels = np.array([place[label] for label in tier.labels if label is not None], np.int32)
        rows.append(AlignedRow(file.id, tier.edges[:-1][held], tier.edges[1:][held], labels))
    return rows, names


def read_textgrid(path: Path, phone_set: PhoneSet = "arpabet") -> TextGrid:
    """Read the tiers `phones` and `words` (or `SPEAKER - phones`, …) of a TextGrid: long or short, UTF-8 or UTF-16.

    Intervals without a text are silence: `SIL` among ARPAbet phones, `sil` where the phones stay as they are, `<eps>`
    among words. Time without an interval, which ELAN and people leave, is unlabelled. Intervals that overlap by at
    most 50 ms are cut at the middle of that.

    Raises InputError, with the path, for a file that is broken, cut off or has no tier of phones, for intervals that
    overlap by more, and for a phone that is not ARPAbet where that is asked for.
    """
    drawn = _read_tiers(path)
    phones, words = ([tier for tier in drawn if _names(tier, name)] for name in ("phones", "words"))
    if not phones:
        names = ", ".join(tier.name for tier in drawn) or "none"
        raise InputError(f"{path}: has no interval tier `phones` or `SPEAKER - phones` (its tiers: {names})")
    blank = "" if phone_set == "arpabet" else "sil"
    tier = _tier(path, phones, blank)
    if phone_set == "arpabet":
        tier = Tier(tier.edges, tuple(None if label is None else _fold(path, label) for label in tier.labels))
    return TextGrid(tier, _tier(path, words, PAUSE) if words else None)


@functools.cache
def _folded(label: str) -> str:
    return fold(label)


def _fold(path: Path, label: str) -> str:
    try:
        return _folded(label)
    except InputError:
        remedy = "for MFA's other dictionaries give --phone-set as-is"
        raise InputError(f"{path}: phone {label!r} is no ARPAbet phone; {remedy}") from None


def _read_tiers(path: Path) -> list[_Drawn]:
    """Every tier of a file. Raises InputError if it is no TextGrid, or ends before what its counts say."""
    from praatio.utilities.constants import INTERVAL_TIER
    from praatio.utilities.errors import PraatioException
    from praatio.utilities.textgrid_io import parseTextgridStr

    try:
        content = path.read_bytes()
        marked = content.startswith((b"\xff\xfe", b"\xfe\xff"))  # Praat's UTF-16
        text = content.decode("utf-16" if marked else "utf-8-sig").replace("\r\n", "\n") + "\n"
        tiers = [
            _Drawn(
                str(tier["name"]),
                tier["class"] == INTERVAL_TIER,
                float(tier["xmax"]),
                [(*map(float, times), label.strip()) for *times, label in tier["entries"]],
            )
            for tier in parseTextgridStr(text, includeEmptyIntervals=True)["tiers"]
        ]
    except (PraatioException, ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: is no TextGrid that can be read: {reason}") from error
    _check_whole(path, text, tiers)
    return tiers


def _check_whole(path: Path, text: str, tiers: Sequence[_Drawn]) -> None:
    """Raise InputError for fewer tiers, or fewer entries in one, than the file says: it was cut off."""
    said, counts = _TIERS.search(text), _TIER.findall(text)
    if said and len(counts) < int(said[1]):
        raise InputError(f"{path}: holds {len(counts)} of its {said[1]} tiers; the file is cut off")
    for tier, count in zip(tiers, counts, strict=False):
        last = max((entry[-2] for entry in tier.entries), default=0.0)
        if len(tier.entries) < int(count) and tier.end - last > SLACK:
            cut = f"tier {tier.name!r} has {len(tier.entries)} of its {count} entries, up to {last:.3f} s"
            raise InputError(f"{path}: {cut} of {tier.end:.3f} s; the file is cut off")


def _names(tier: _Drawn, name: str) -> bool:
    """Whether a tier of intervals is called `name` or `SPEAKER - name`."""
    return tier.has_intervals and tier.name.lower().rpartition(" - ")[2].strip() == name


def _tier(path: Path, tiers: Sequence[_Drawn], blank: str) -> Tier:
    """One tier out of each speaker's: what is said, silence where an interval says so, None where there is none."""
    entries = sorted(
        _Entry(start, stop, text, number) for number, tier in enumerate(tiers) for start, stop, text in tier.entries
    )
    for entry in entries:
        if entry.stop <= entry.start:
            raise InputError(f"{path}: {entry.text!r} from {entry.start:.3f} s to {entry.stop:.3f} s is no interval")
    spoken = _cut_overlaps(path, [entry for entry in entries if entry.text or len(tiers) == 1])
    silent = [entry for entry in entries if not entry.text and len(tiers) > 1]
    end = max([*(tier.end for tier in tiers), *(entry.stop for entry in entries)])
    edges, labels = [0.0], list[str | None]()

    def until(stop: float, label: str | None) -> None:
        if stop > edges[-1]:
            edges.append(stop)
            labels.append(label)

    for start, stop, text, _ in [*spoken, _Entry(end, end, "", 0)]:
        for pause in silent:
            if max(edges[-1], pause.start) < min(start, pause.stop):
                until(pause.start, None)
                until(min(start, pause.stop), blank)
        until(start, None)
        until(stop, text or blank)
    if len(labels) > 1 and labels[-1] is None and edges[-1] - edges[-2] <= SLACK:
        del labels[-1], edges[-2]
    return Tier(np.array(edges), tuple(labels))


def _cut_overlaps(path: Path, entries: list[_Entry]) -> list[_Entry]:
    """Intervals in order; two that overlap by at most TOLERANCE meet at the middle of that. InputError for others."""
    for place in range(1, len(entries)):
        one, other = entries[place - 1 : place + 1]
        middle = (one.stop + other.start) / 2
        if (overlap := one.stop - other.start) <= 0:
            continue
        if overlap > TOLERANCE + 5e-10 or middle >= other.stop:
            what = "two intervals overlap" if one.tier == other.tier else "two speakers at once"
            both = f"{one.text!r} until {one.stop:.3f} s and {other.text!r} from {other.start:.3f} s"
            rule = f"a frame has one label, and only an overlap of up to {TOLERANCE:g} s is cut at its middle"
            raise InputError(f"{path}: {what} ({both}); {rule}; correct one of them")
        entries[place - 1 : place + 1] = one._replace(stop=middle), other._replace(start=middle)
    return entries
