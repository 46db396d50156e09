"""TIMIT: its 61 phones with their times from .PHN files, folded to 48 and to 39 classes.

The folding is Table 3 of Lee and Hon (1989), "Speaker-independent phone recognition using hidden Markov models",
IEEE Transactions on Acoustics, Speech, and Signal Processing 37(11): 48 classes to train on, 39 to count errors in.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import typer
from jaxtyping import Float64
from numpy import ndarray

from cpc.config import InputError
from cpc.data.alignment import AlignedRow
from cpc.data.corpus import Corpus
from cpc.version import __version__

from .label_files import FileLabels, Labels, Unread, checksum, find_labels, match_files, read_files, take

SAMPLE_RATE = 16000  # Hz: the times in .PHN files count samples
# TIMIT's documentation warns that the last label may end before the audio does: what follows is silence.
EARLY = 0.25  # seconds
GLOTTAL_STOP = "q"  # in neither folding: it is deleted

# One of the 39 classes a line. Before the colon its phones among the 61, after it, in the same order, their classes
# among the 48, where those differ from the phones.
_CLASSES = """
aa aa ao
ae ae
ah ah ax ax-h        : ah ax ax
aw aw
ay ay
b b
ch ch
d d
dh dh
dx dx
eh eh
er er axr            : er er
ey ey
f f
g g
hh hh hv             : hh hh
ih ih ix
iy iy
jh jh
k k
l l el
m m em               : m m
n n en nx            : n en n
ng ng eng            : ng ng
ow ow
oy oy
p p
r r
s s
sh sh zh
sil h# pau epi pcl tcl kcl bcl dcl gcl : sil sil epi cl cl cl vcl vcl vcl
t t
th th
uh uh
uw uw ux             : uw uw
v v
w w
y y
z z
"""


def _tables() -> tuple[dict[str, str], dict[str, str]]:
    to_48, to_39 = dict[str, str](), dict[str, str]()
    for line in _CLASSES.strip().splitlines():
        (name, *phones), _, classes = (part.split() for part in line.partition(":"))
        to_39 |= dict.fromkeys(phones, name)
        to_48 |= dict(zip(phones, classes or phones, strict=True))
    return to_48, to_39


TO_48, TO_39 = _tables()
PHONES_61: tuple[str, ...] = tuple(sorted([*TO_39, GLOTTAL_STOP]))
PHONES_48: tuple[str, ...] = tuple(sorted(set(TO_48.values())))
PHONES_39: tuple[str, ...] = tuple(sorted(set(TO_39.values())))
_PLACE = {phone: place for place, phone in enumerate(PHONES_61)}


def take_phn(corpus: Corpus, folder: Path, scheme: str = "phones", *, workers: int = 1, partial: bool = False) -> None:
    """Take in the .PHN files below a folder: 61 phones as SCHEME61, folded as SCHEME48, SCHEME39 and SCHEME.

    SCHEME, which probes use unless told otherwise, is the same as SCHEME39. Raises InputError if there are no .PHN
    files, or too many do not fit the corpus: see `data_prep.label_files`.
    """
    pairs, strangers = match_files(find_labels(folder, ".phn"), corpus.ids)
    typer.echo(f"{len(pairs) + len(strangers)} .PHN files in {folder}:")
    files = list(read_files(pairs, read_phn, workers))
    rows = [_row(file) for file in files]
    provenance = {
        "kind": "phn",
        "reader": f"cpc {__version__}",
        "files": len(files),
        "sha256": checksum((file.path.relative_to(folder).as_posix(), file.sha256) for file in files),
    }
    folded = {
        f"{scheme}61": (rows, PHONES_61, "as in the .PHN files"),
        f"{scheme}48": ([fold(row, TO_48) for row in rows], PHONES_48, "folded from 61 to 48"),
        f"{scheme}39": ([fold(row, TO_39) for row in rows], PHONES_39, "folded from 61 to 39"),
    }
    folded[scheme] = folded[f"{scheme}39"]
    for name, (own, inventory, how) in folded.items():
        details = provenance | {"folding": how}
        unknown = [file.relative_to(folder).as_posix() for file in strangers]
        labels = Labels(name, own, inventory, f".PHN files, {how}", details, str(folder), EARLY, unknown=unknown)
        take(corpus, labels, partial=partial)


def _row(file: FileLabels[AlignedRow]) -> AlignedRow | Unread:
    return (
        Unread(file.id, f"{file.path.name}: {file.reason}") if file.value is None else file.value._replace(id=file.id)
    )


def read_phn(path: Path) -> AlignedRow:
    """Read the lines `START END PHONE` of a .PHN file, in samples at 16 kHz; labels are places in `PHONES_61`.

    Raises InputError, with path and line, for anything else, for a phone that TIMIT does not have, and for intervals
    that are empty, out of order or overlap.
    """
    edges, labels, before = list[tuple[int, int]](), list[int](), 0
    for number, line in enumerate(path.read_bytes().decode("ascii", "replace").splitlines(), 1):
        if not (words := line.split()):
            continue
        where, rule = f"{path}: line {number} ({line.strip()})", "must be START END PHONE, in samples"
        if len(words) != 3 or not (words[0].isdecimal() and words[1].isdecimal()):
            raise InputError(f"{where}: {rule}")
        start, end, phone = int(words[0]), int(words[1]), words[2].lower()
        if phone not in _PLACE:
            raise InputError(f"{where}: {phone!r} is none of TIMIT's 61 phones")
        if not before <= start < end:
            raise InputError(f"{where}: begins before sample {before}, where the one before ends, or is empty")
        edges.append((start, end))
        labels.append(_PLACE[phone])
        before = end
    if not edges:
        raise InputError(f"{path}: holds no labels; its lines must be START END PHONE, in samples")
    onsets, offsets = np.array(edges).T / SAMPLE_RATE
    return AlignedRow(path.stem, onsets, offsets, np.array(labels))


def fold(row: AlignedRow | Unread, table: Mapping[str, str]) -> AlignedRow | Unread:
    """61 phones as the classes of `TO_48` or `TO_39`: places in the sorted list of their names.

    A glottal stop is deleted: each of its neighbours takes half of its time, as in an alignment of a transcript
    without it. Where nothing touches it on one side, the other neighbour takes all.
    """
    if isinstance(row, Unread):
        return row
    place = {name: number for number, name in enumerate(sorted(set(table.values())))}
    codes = np.array([place[table[phone]] if phone in table else -1 for phone in PHONES_61])
    labels = codes[row.labels]
    onsets, offsets = row.onsets.copy(), row.offsets.copy()
    kept = np.flatnonzero(labels >= 0)
    for left, right in pairwise([-1, *kept.tolist(), len(labels)]):
        if right - left > 1:  # glottal stops between the two
            _close(onsets, offsets, left, right)
    return AlignedRow(row.id, onsets[kept], offsets[kept], labels[kept])


def _close(
    onsets: Float64[ndarray, " interval"], offsets: Float64[ndarray, " interval"], left: int, right: int
) -> None:
    """Share the time of the intervals between `left` and `right` out to these two, where they touch it."""
    start, stop = onsets[left + 1], offsets[right - 1]
    before, after = left >= 0 and offsets[left] == start, right < len(onsets) and onsets[right] == stop
    middle = (start + stop) / 2 if before and after else stop if before else start
    if before:
        offsets[left] = middle
    if after:
        onsets[right] = middle
