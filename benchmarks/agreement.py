"""How far found labels agree with the truth: by frames of 10 ms and by boundaries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from data_prep.aligner import HOP, SAMPLE_RATE, VOWELS, WINDOW

CLOSE = 0.02  # seconds


class Phones(NamedTuple):
    """An utterance's phones: each begins at its onset (seconds) and may be written as any of `names`.

    The names of one phone are several where the truth has a finer or coarser class than ARPAbet: the vowel of
    "start" is AA and then R, and where the one ends and the other begins is not known.
    """

    names: Sequence[tuple[str, ...]]
    onsets: Sequence[float]
    end: float

    def frames(self, centres: np.ndarray) -> list[tuple[str, ...]]:
        places = np.searchsorted(self.onsets, centres, side="right") - 1
        return [self.names[place] for place in places.tolist()]


class Agreement:
    """Sums over utterances of what agrees between found labels and the truth."""

    def __init__(self) -> None:
        self.frames = self.same = self.alike = self.boundaries = 0
        self.errors: list[float] = []  # seconds, found − true, of the boundaries that could be matched

    def add(self, found: Phones, truth: Phones) -> None:
        """Count one utterance, by frames of 10 ms and by boundaries."""
        centres = np.arange(WINDOW / 2, min(found.end, truth.end) * SAMPLE_RATE, HOP) / SAMPLE_RATE
        pairs = list(zip(found.frames(centres), truth.frames(centres), strict=True))
        self.frames += len(pairs)
        self.same += sum(mine[0] in theirs for mine, theirs in pairs)
        self.alike += sum(mine[0] in theirs or _vowels(mine + theirs[:1]) for mine, theirs in pairs)
        names, onsets = _spell(truth)
        self.boundaries += sum(onset is not None for onset in onsets[1:])
        for mine, theirs in match([name for (name,) in found.names], names):
            if mine and theirs and (onset := onsets[theirs]) is not None:
                self.errors.append(found.onsets[mine] - onset)

    def row(self) -> list[str]:
        """Cells: frames that agree, with all vowels as one; boundaries within 20 ms, matched; median error, ms."""
        errors = np.array(self.errors)
        close = float(np.mean(np.abs(errors) <= CLOSE + 1e-9))
        shares = (self.same / self.frames, self.alike / self.frames, close, len(errors) / self.boundaries)
        return [*(f"{100 * share:.1f}%" for share in shares), f"{1000 * float(np.median(errors)):+.1f} ms"]


def _vowels(names: Iterable[str]) -> bool:
    return all(name in VOWELS for name in names)


def _spell(phones: Phones) -> tuple[list[str], list[float | None]]:
    """One name a phone; the onset of a second name is not known."""
    spelt = [
        (name, onset if place == 0 else None)
        for names, onset in zip(phones.names, phones.onsets, strict=True)
        for place, name in enumerate(names)
    ]
    return [name for name, _ in spelt], [onset for _, onset in spelt]


def match(found: Sequence[str], truth: Sequence[str]) -> list[tuple[int, int]]:
    """Places of phones that correspond, by the least edit distance.

    A vowel does not stand for a consonant, nor a pause for a phone.
    """

    def cost(mine: str, theirs: str) -> float:
        alike = (mine in VOWELS) == (theirs in VOWELS) and "SIL" not in (mine, theirs)
        return 0.0 if mine == theirs else 0.7 if alike else 1.6

    table = np.zeros((len(found) + 1, len(truth) + 1))
    table[:, 0], table[0] = np.arange(len(found) + 1), np.arange(len(truth) + 1)
    for i, mine in enumerate(found):
        for j, theirs in enumerate(truth):
            table[i + 1, j + 1] = min(table[i, j] + cost(mine, theirs), table[i, j + 1] + 1, table[i + 1, j] + 1)
    pairs, i, j = [], len(found), len(truth)
    while i and j:
        if table[i, j] == table[i - 1, j - 1] + cost(found[i - 1], truth[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif table[i, j] == table[i - 1, j] + 1:
            i -= 1
        else:
            j -= 1
    return pairs[::-1]


def edits(one: Sequence[str], other: Sequence[str]) -> int:
    """Insertions, deletions and substitutions between two sequences."""
    row = list(range(len(other) + 1))
    for i, mine in enumerate(one, 1):
        above, row[0] = row[0], i
        for j, theirs in enumerate(other, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (mine != theirs))
    return row[-1]
