"""Groups of items and the cells of an ABX task: which A, B and X are compared with each other.

A group holds the items of one phone by one speaker (in one context, unless contexts are ignored). A cell takes A and
X from groups of one phone, B from one of another phone with the speaker and the context of A. Within speakers X is
A's own group, and an item is never its own X; across speakers X is by somebody else.

Caps and their numbers are those of ZeroSpeech and Libri-Light: at most 10 items of a group, at most 5 speakers for X.
There each cell draws anew. Here a group is drawn once, by a seed and its name, from all its items: cells share their
distances, and different features are evaluated on the same triplets.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int64

from cpc.evaluation.abx.items import Items
from cpc.seeding import numpy_generator

Speaker = Literal["within", "across"]
Context = Literal["within", "any"]
MOST_ITEMS, MOST_SPEAKERS = 10, 5  # of a group; for X

PerGroup = Int64[np.ndarray, " group"]
PerCell = Int64[np.ndarray, " cell"]


@dataclass(frozen=True)
class Groups:
    """Group g owns the items members[bounds[g]] … members[bounds[g + 1] − 1]; the rest are places in name lists."""

    members: Int64[np.ndarray, " member"]
    bounds: Int64[np.ndarray, " bound"]
    context: PerGroup
    speaker: PerGroup
    phone: PerGroup

    def __len__(self) -> int:
        return len(self.phone)

    @property
    def sizes(self) -> PerGroup:
        """Items of each group."""
        return np.diff(self.bounds)

    @property
    def owners(self) -> Int64[np.ndarray, " member"]:
        """The group of each member."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def keep(self, members: Bool[np.ndarray, " member"]) -> "Groups":
        """Only some members, and only groups that have any."""
        sizes = np.bincount(self.owners[members], minlength=len(self))
        left = sizes > 0
        bounds = np.concatenate([[0], np.cumsum(sizes[left])])
        return Groups(self.members[members], bounds, self.context[left], self.speaker[left], self.phone[left])


@dataclass(frozen=True)
class Cells:
    """Groups A, B and X of each cell; `symmetric` where X is A."""

    a: PerCell
    b: PerCell
    x: PerCell
    symmetric: bool

    def __len__(self) -> int:
        return len(self.a)


def drop_unused(groups: Groups, cells: Cells) -> tuple[Groups, Cells]:
    """The groups that are in a cell, and the cells with the numbers that they have then."""
    used = np.zeros(len(groups), np.bool_)
    used[np.concatenate([cells.a, cells.b, cells.x])] = True
    number = np.cumsum(used) - 1
    left = groups.keep(used[groups.owners])
    return left, Cells(number[cells.a], number[cells.b], number[cells.x], cells.symmetric)


@dataclass(frozen=True)
class Names:
    """What the numbers in `Groups` stand for."""

    contexts: list[str]
    speakers: list[str]
    phones: list[str]


def make_groups(
    items: Items, context: Context = "within", most: int | None = MOST_ITEMS, seed: int = 0
) -> tuple[Groups, Names]:
    """Groups sorted by context, speaker and phone, of at most `most` items each (None: all)."""
    pairs = np.char.add(np.char.add(items.previous, " "), items.following)
    columns = [np.zeros_like(pairs) if context == "any" else pairs, items.speakers, items.phones]
    names, codes = zip(*(np.unique(column, return_inverse=True) for column in columns), strict=True)
    members = np.lexsort((np.arange(len(items)), *codes[::-1]))
    changes = np.any([np.diff(code[members], prepend=-1) != 0 for code in codes], axis=0)
    starts = np.flatnonzero(changes)
    groups = Groups(members, np.append(starts, len(members)), *(code[members][starts] for code in codes))
    known = Names(*(column.tolist() for column in names))
    return groups.keep(_drawn(groups, known, most, seed)), known


def _drawn(groups: Groups, names: Names, most: int | None, seed: int) -> Bool[np.ndarray, " member"]:
    kept = np.ones(len(groups.members), np.bool_)
    for g in np.flatnonzero(groups.sizes > most).tolist() if most else ():
        generator = numpy_generator(seed, "abx items", *_name(groups, names, g))
        size = int(groups.sizes[g])
        kept[groups.bounds[g] : groups.bounds[g + 1]] = False
        kept[groups.bounds[g] + generator.choice(size, most, replace=False)] = True
    return kept


def _name(groups: Groups, names: Names, g: int) -> tuple[str, str, str]:
    return (
        names.contexts[groups.context[g]],
        names.speakers[groups.speaker[g]],
        names.phones[groups.phone[g]],
    )


def make_cells(
    groups: Groups, names: Names, speaker: Speaker = "within", most: int | None = MOST_SPEAKERS, seed: int = 0
) -> Cells:
    """All cells; across speakers with at most `most` speakers for the X of each A (None: all)."""
    others = _pairs_of_phones(groups)
    if speaker == "within":
        a, b = others[:, groups.sizes[others[0]] > 1]
        return Cells(a, b, a, symmetric=True)
    a_of_x, x = _other_speakers(groups, names, most, seed)
    counts = np.bincount(a_of_x, minlength=len(groups))[others[0]]  # X groups of each pair's A
    a, b = np.repeat(others, counts, axis=1)
    first = np.searchsorted(a_of_x, others[0])
    number = np.arange(len(a)) - np.repeat(np.cumsum(counts) - counts, counts)
    return Cells(a, b, x[np.repeat(first, counts) + number], symmetric=False)


def _pairs_of_phones(groups: Groups) -> Int64[np.ndarray, "2 pair"]:
    """Every ordered pair of different groups with the same speaker and context, sorted by the first."""
    starts, sizes = _runs(groups.context, groups.speaker)
    block = np.repeat(np.arange(len(starts)), sizes)
    a = np.repeat(np.arange(len(groups)), sizes[block])
    within = np.arange(len(a)) - np.repeat(np.cumsum(sizes[block]) - sizes[block], sizes[block])
    b = starts[block[a]] + within
    return np.stack([a, b])[:, a != b]


def _runs(*columns: PerGroup) -> tuple[Int64[np.ndarray, " run"], Int64[np.ndarray, " run"]]:
    """Start and length of each run of groups for which all columns are equal."""
    changes = np.any([np.diff(column, prepend=-1) != 0 for column in columns], axis=0)
    starts = np.flatnonzero(changes)
    return starts, np.diff(np.append(starts, len(columns[0])))


def _other_speakers(groups: Groups, names: Names, most: int | None, seed: int) -> tuple[PerCell, PerCell]:
    """Pairs of a group A and one with its phone and context by another speaker, sorted by A."""
    order = np.lexsort((groups.speaker, groups.phone, groups.context))
    pairs: list[tuple[int, int]] = []
    for start, size in zip(*_runs(groups.context[order], groups.phone[order]), strict=True):
        alike = order[start : start + size].tolist()
        for a in alike:
            pairs += [(a, x) for x in _chosen([x for x in alike if x != a], most, groups, names, a, seed)]
    found = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def _chosen(others: list[int], most: int | None, groups: Groups, names: Names, a: int, seed: int) -> Iterator[int]:
    if most is None or len(others) <= most:
        yield from others
        return
    generator = numpy_generator(seed, "abx speakers", *_name(groups, names, a))
    yield from (others[place] for place in generator.choice(len(others), most, replace=False).tolist())
