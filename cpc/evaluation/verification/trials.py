"""Trials: pairs of utterances, by one speaker or by two, drawn from a corpus so that no speaker outweighs the others.

Where there are more pairs than are wanted, every speaker gives equally many target trials and every pair of speakers
equally many non-target trials, as far as they have them: a level is filled up, and what the small ones lack goes to
the others. Within a speaker, or a pair of speakers, trials are drawn without replacement. Trials count alike
afterwards, so that a list gives the same numbers in any other program.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from cpc.config import InputError
from cpc.corpus.corpus import Corpus
from cpc.corpus.splits import has_speaker
from cpc.seeding import numpy_generator

MOST = 20_000  # trials of each kind

Sides = Int64[np.ndarray, " trial"]
Rows = Int64[np.ndarray, " utterance"]
Counts = Int64[np.ndarray, " cell"]


@dataclass(frozen=True)
class Trials:
    """Trial i asks whether rows first[i] and second[i] of a corpus are by one speaker; target[i] is the answer."""

    first: Sides
    second: Sides
    target: Bool[np.ndarray, " trial"]

    def __len__(self) -> int:
        return len(self.target)

    @property
    def rows(self) -> Rows:
        """The utterances that are in a trial, each once."""
        return np.union1d(self.first, self.second)

    def keep(self, kept: Bool[np.ndarray, " trial"]) -> "Trials":
        """Some of the trials."""
        return Trials(self.first[kept], self.second[kept], self.target[kept])


def draw_trials(
    corpus: Corpus,
    rows: Rows,
    *,
    other_chapters: bool = False,
    most: int = MOST,
    seed: int = 0,
) -> Trials:
    """At most `most` target and as many non-target trials of some rows of a corpus; all pairs where those are fewer.

    Utterances without a known speaker are in none. With `other_chapters`, target trials are of two chapters, both of
    them known. No pair comes twice, in either order.

    Raises:
        InputError: there is no trial of one of the kinds.
    """
    if most < 1:
        raise InputError(f"most={most}: must be at least 1, the trials of each kind")
    speaker, chapter, order = _by_speaker(corpus, rows)
    targets = _targets(speaker, chapter, other_chapters, most, seed)
    others = _non_targets(speaker, most, seed)
    if not targets.size:
        rule = "has two utterances, of known and different chapters" if other_chapters else "has two utterances"
        remedy = "; drop --other-chapters or give another split" if other_chapters else "; give a larger split"
        raise InputError(f"test: none of {len(np.unique(speaker))} speakers {rule}{remedy}")
    if not others.size:
        raise InputError("test: holds one speaker only; give a split with at least two")
    first, second = order[np.concatenate([targets, others], axis=1)]
    return Trials(first, second, np.arange(len(first)) < targets.shape[1])


def chapter_numbers(corpus: Corpus, rows: Int64[np.ndarray, " _"]) -> Int64[np.ndarray, " _"]:
    """The chapter of each row as a number, −1 where it is not known."""
    names, chapter = corpus.groups("chapter")
    known = np.array([name != "" for name in names])
    return np.where(known[chapter[rows]], chapter[rows], -1)


def _by_speaker(corpus: Corpus, rows: Int64[np.ndarray, " _"]) -> tuple[Rows, Rows, Rows]:
    """Speakers, chapters and rows, sorted by speaker and chapter, unknown chapters first; of known speakers alone."""
    rows = np.unique(rows)
    rows = rows[has_speaker(corpus, rows)]
    speaker = corpus.groups("speaker")[1]
    chapter = chapter_numbers(corpus, rows)
    order = np.lexsort((rows, chapter, speaker[rows]))
    return speaker[rows][order], chapter[order], rows[order]


def _targets(speaker: Rows, chapter: Rows, other_chapters: bool, most: int, seed: int) -> Int64[np.ndarray, "2 trial"]:
    """Places of pairs: each utterance with those behind it by its speaker, or behind its chapter."""
    place = np.arange(len(speaker))
    bounds = np.append(np.flatnonzero(np.diff(speaker, prepend=-1)), len(speaker))
    end = np.repeat(bounds[1:], np.diff(bounds))
    after = place + 1
    if other_chapters:
        own = np.flatnonzero((np.diff(speaker, prepend=-1) != 0) | (np.diff(chapter, prepend=-2) != 0))
        after = np.repeat(np.append(own[1:], len(speaker)), np.diff(np.append(own, len(speaker))))
        after = np.where(chapter < 0, end, after)
    numbering = _Numbering(after, end)
    starts = numbering.first[bounds]  # the numbers of a speaker's pairs lie between two of these
    generator = numpy_generator(seed, "target trials")
    return numbering.pairs(_drawn(starts[:-1], np.diff(starts), most, generator))


def _non_targets(speaker: Rows, most: int, seed: int) -> Int64[np.ndarray, "2 trial"]:
    """Places of pairs: utterances of two speakers. Beyond `most` pairs of speakers, one trial of so many of them."""
    names, start, size = np.unique(speaker, return_index=True, return_counts=True)
    numbering = _Numbering(np.arange(1, len(names) + 1), np.full(len(names), len(names)))
    generator = numpy_generator(seed, "non-target trials")
    count = int(numbering.first[-1])
    chosen = np.arange(count) if count <= most else generator.choice(count, most, replace=False, shuffle=False)
    one, other = numbering.pairs(np.sort(chosen))
    sizes = size[one] * size[other]
    first = np.cumsum(sizes) - sizes
    numbers = _drawn(first, sizes, most, generator)
    cell = np.searchsorted(first, numbers, side="right") - 1
    along, across = np.divmod(numbers - first[cell], size[other][cell])
    return np.stack([start[one][cell] + along, start[other][cell] + across])


class _Numbering:
    """Numbers for pairs (i, j) with after[i] ≤ j < end[i]: those of i begin at first[i]."""

    def __init__(self, after: Counts, end: Counts) -> None:
        self.after = after
        self.first = np.concatenate([[0], np.cumsum(end - after)])

    def pairs(self, numbers: Int64[np.ndarray, " pair"]) -> Int64[np.ndarray, "2 pair"]:
        i = np.searchsorted(self.first, numbers, side="right") - 1
        return np.stack([i, self.after[i] + numbers - self.first[i]])


def _drawn(first: Counts, sizes: Counts, most: int, generator: np.random.Generator) -> Int64[np.ndarray, " drawn"]:
    """At most so many numbers of all cells together; those of a cell are first … first + size − 1."""
    if int(sizes.sum()) <= most:
        return np.concatenate([np.arange(f, f + n) for f, n in zip(first, sizes, strict=True)] or [first])
    parts = [
        f + np.sort(generator.choice(n, quota, replace=False, shuffle=False))
        for f, n, quota in zip(first, sizes, fair_shares(sizes, most, generator), strict=True)
    ]
    return np.concatenate(parts)


def fair_shares(sizes: Counts, most: int, generator: np.random.Generator) -> Counts:
    """How many of each cell, `most` in all: as equal as the sizes allow, what is left over one each to a few."""
    level, above = 0, most + 1  # the highest level at which min(size, level) sum up to `most` at most
    while above - level > 1:
        middle = (level + above) // 2
        level, above = (middle, above) if np.minimum(sizes, middle).sum() <= most else (level, middle)
    shares: Counts = np.minimum(sizes, level)
    larger = np.flatnonzero(sizes > level)
    shares[generator.choice(larger, min(most - int(shares.sum()), len(larger)), replace=False)] += 1
    return shares
