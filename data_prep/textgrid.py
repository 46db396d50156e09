"""TextGrids of the Montreal Forced Aligner: the tiers `phones` and `words`, read by praatio."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import typer
from jaxtyping import Float64
from numpy import ndarray

from cpc.config import InputError
from cpc.corpus import AlignedRow, Corpus
from data_prep.arpabet import PHONES, fold
from data_prep.intake import Labels, Unread, take
from data_prep.label_files import Read, checksum, find_labels, match_files, read_files

PhoneSet = Literal["arpabet", "as-is"]
PAUSE = "<eps>"  # the class of what no word covers
SLACK = 0.01  # seconds by which the last interval may miss the end of its tier


class Tier(NamedTuple):
    """Labels that hold from edges[i] to edges[i + 1] (seconds), from 0 to the end of the tier."""

    edges: Float64[ndarray, " labels+1"]
    labels: tuple[str, ...]


class TextGrid(NamedTuple):
    """The two tiers of one utterance; `words` is None where there is no such tier."""

    phones: Tier
    words: Tier | None


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
    are no TextGrids, or too many do not fit the corpus: see `data_prep.intake`.
    """
    pairs, strangers = match_files(find_labels(folder, ".TextGrid"), corpus.ids)
    typer.echo(f"{len(pairs) + len(strangers)} TextGrids in {folder}:")
    files = list(read_files(pairs, functools.partial(read_textgrid, phone_set=phone_set), workers))
    provenance = _provenance(files, folder, phone_set)

    def take_tier(name: str, tier: str, own: Sequence[Read[TextGrid]], inventory: Sequence[str]) -> None:
        rows, names = _coded(own, tier, inventory)
        unknown = [file.stem for file in strangers]
        source = f"TextGrids, tier {tier}"
        take(corpus, Labels(name, rows, names, source, provenance, str(folder), unknown=unknown), partial=partial)

    take_tier(scheme, "phones", files, PHONES if phone_set == "arpabet" else ())
    with_words = [file for file in files if file.value is None or file.value.words is not None]
    if any(file.value for file in with_words):
        take_tier("words" if scheme == "phones" else f"{scheme}_words", "words", with_words, ())
    if missing := len(files) - len(with_words):
        typer.echo(f"  {missing} TextGrids have no tier words")


def _provenance(files: Sequence[Read[TextGrid]], folder: Path, phone_set: PhoneSet) -> dict[str, object]:
    return {
        "kind": "textgrid",
        "reader": f"praatio {version('praatio')}",
        "phone_set": phone_set,
        "files": len(files),
        "sha256": checksum((file.path.relative_to(folder).as_posix(), file.sha256) for file in files),
    }


def _coded(
    files: Sequence[Read[TextGrid]], name: str, inventory: Sequence[str]
) -> tuple[list[AlignedRow | Unread], list[str]]:
    """Rows with numbers for labels, and what the numbers mean: `inventory`, or all labels that occur, sorted."""
    tiers: list[tuple[Read[TextGrid], Tier | None]] = [(file, getattr(file.value, name, None)) for file in files]
    names = list(inventory) or sorted({label for _, tier in tiers if tier for label in tier.labels})
    place = {label: number for number, label in enumerate(names)}
    rows: list[AlignedRow | Unread] = []
    for file, tier in tiers:
        if tier is None:
            rows.append(Unread(file.id, f"{file.path.name}: {file.reason}"))
            continue
        labels = np.array([place[label] for label in tier.labels], np.int32)
        rows.append(AlignedRow(file.id, tier.edges[:-1], tier.edges[1:], labels))
    return rows, names


def read_textgrid(path: Path, phone_set: PhoneSet = "arpabet") -> TextGrid:
    """Read the tiers `phones` and `words` (or `SPEAKER - phones`, …) of a TextGrid: long or short, UTF-8 or UTF-16.

    Blanks are silence: `SIL` among ARPAbet phones, `sil` where the phones stay as they are, `<eps>` among words.
    Raises InputError, with the path, for a file that is broken or has no tier of phones, for two speakers at once,
    and for a phone that is not ARPAbet where that is asked for.
    """
    from praatio import textgrid
    from praatio.utilities.errors import PraatioException

    try:
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=True, reportingMode="silence")
    except (PraatioException, ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: is no TextGrid that can be read: {reason}") from error
    phones, words = (_find(path, grid, name) for name in ("phones", "words"))
    if phones is None:
        names = ", ".join(grid.tierNames) or "none"
        raise InputError(f"{path}: has no interval tier `phones` or `SPEAKER - phones` (its tiers: {names})")
    blank = "" if phone_set == "arpabet" else "sil"
    tier = _tier(path, phones, blank)
    if phone_set == "arpabet":
        tier = Tier(tier.edges, tuple(_fold(path, label) for label in tier.labels))
    return TextGrid(tier, None if words is None else _tier(path, words, PAUSE))


@functools.cache
def _folded(label: str) -> str:
    return fold(label)


def _fold(path: Path, label: str) -> str:
    try:
        return _folded(label)
    except InputError:
        remedy = "for MFA's other dictionaries give --phone-set as-is"
        raise InputError(f"{path}: phone {label!r} is no ARPAbet phone; {remedy}") from None


def _find(path: Path, grid: Any, name: str) -> list[Any] | None:
    """The tiers of that name, one a speaker; None if there are none."""
    from praatio.utilities.constants import INTERVAL_TIER

    named = [tier for tier in grid.tiers if tier.name.lower().rpartition(" - ")[2].strip() == name]
    found = [tier for tier in named if tier.tierType == INTERVAL_TIER]
    for tier in found:
        last = tier.entries[-1].end if tier.entries else 0.0
        if tier.maxTimestamp - last > SLACK:
            cut = f"tier {tier.name!r} has intervals up to {last:.3f} s of its {tier.maxTimestamp:.3f} s"
            raise InputError(f"{path}: {cut}; the file is cut off")
    return found or None


def _tier(path: Path, tiers: Sequence[Any], blank: str) -> Tier:
    """One tier out of each speaker's, without gaps."""
    spoken = sorted(entry for tier in tiers for entry in tier.entries if entry.label or len(tiers) == 1)
    for one, other in pairwise(spoken):
        if other.start < one.end:
            both = f"{one.label!r} until {one.end:.3f} s and {other.label!r} from {other.start:.3f} s"
            raise InputError(f"{path}: two speakers at once ({both}); a frame has one label")
    end = max(tier.maxTimestamp for tier in tiers)
    edges, labels = [0.0], list[str]()
    for start, stop, label in [*spoken, (end, end, "")]:
        if start > edges[-1]:
            edges.append(start)
            labels.append(blank)
        if stop > start:
            edges.append(stop)
            labels.append(label or blank)
    return Tier(np.array(edges), tuple(labels))
