"""From distances to an error: cells, then the mean over contexts, speakers and pairs of phones, and its interval.

A cell's score is the share of its triplets in which X is nearer to A than to B; a tie counts ½. Cells are averaged
over contexts (and over the speakers of X), the result over speakers of A and B, and that over ordered pairs of
phones; the error is 1 minus it (Libri-Light's `eval_ABX.py`; fastabx's `collapse`).

The interval resamples speakers, in both of their roles at once where X is by another speaker: speakers are what a
new corpus would have other ones of. With one speaker there is nothing to resample but pairs of phones.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from cpc.evaluation.abx.groups import Cells, Groups
from cpc.evaluation.abx.pairs import Distances
from cpc.seeding import numpy_generator

REPLICATES = 2000
_AT_ONCE = 1 << 22  # triplets compared at once
_VALUES_AT_ONCE = 1 << 22  # of resampled means: 32 MiB

Scores = Float64[np.ndarray, " cell"]
Resampled = Literal["speakers", "phone pairs"]


def score_cells(distances: Distances, cells: Cells) -> Scores:
    """The share of triplets of each cell in which X is nearer to A, ties counted ½."""
    sizes = distances.groups.sizes
    scores = np.empty(len(cells))
    for chosen in _alike(*(sizes[groups[...]] for groups in (cells.x, cells.a, cells.b))):
        a, b, x = cells.a[chosen], cells.b[chosen], cells.x[chosen]
        to_a = _padded(distances, x, a, torch.inf)
        if cells.symmetric:
            to_a.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        to_b = _padded(distances, x, b, -torch.inf)
        nearer = (to_a[..., None] < to_b[:, :, None]).sum((1, 2, 3))
        equal = (to_a[..., None] == to_b[:, :, None]).sum((1, 2, 3))
        triplets = (sizes[x] - cells.symmetric) * sizes[a] * sizes[b]
        scores[chosen] = (nearer + equal / 2).double().numpy() / triplets
    return scores


def _alike(*sizes: Int64[np.ndarray, " cell"]) -> Iterator[Int64[np.ndarray, " some"]]:
    """Cells of similar size together, large ones first."""
    volume = np.prod(sizes, axis=0)
    order = np.argsort(-volume, kind="stable")
    start = 0
    while start < len(order):
        largest = int(np.prod([size[order[start:]].max() for size in sizes]))
        stop = start + max(1, _AT_ONCE // largest)
        yield order[start:stop]
        start = stop


def _padded(
    distances: Distances, x: Int64[np.ndarray, " cell"], y: Int64[np.ndarray, " cell"], beyond: float
) -> Tensor:
    """Distances from X to the other group of each cell, (cell, x, other), `beyond` where a group has no more items."""
    sizes = distances.groups.sizes
    row, start, down, along = distances.places(x, y)
    i, j = np.arange(sizes[x].max())[:, None], np.arange(sizes[y].max())
    inside = (i < sizes[x][:, None, None]) & (j < sizes[y][:, None, None])
    place = start[:, None, None] + i * down[:, None, None] + j * along[:, None, None]
    place = np.where(inside, place + row[:, None, None] * distances.values.shape[1], 0)
    values = distances.values.flatten()[torch.from_numpy(place)]
    return values.masked_fill_(torch.from_numpy(~inside), beyond)


@dataclass(frozen=True)
class Summary:
    """The error with its 95% interval, 0 to 1, and the error of each ordered pair of phones (NaN: no cell)."""

    error: float
    low: float
    high: float
    resampled: Resampled
    pairs: Float64[np.ndarray, "phone phone"]


def summarise(groups: Groups, cells: Cells, scores: Scores, phones: int, seed: int = 0) -> Summary:
    """Average the cells, and resample speakers for the interval."""
    table = _Table.of(groups, cells, scores, phones)
    pairs = table.pairs(np.ones((len(table.speakers), 1)))[:, 0]
    several = len(table.speakers) > 1
    errors = table.replicates(seed) if several else _over_pairs(pairs[np.isfinite(pairs)], seed)
    low, high = np.nanquantile(errors, [0.025, 0.975])
    resampled: Resampled = "speakers" if several else "phone pairs"
    return Summary(float(np.nanmean(pairs)), float(low), float(high), resampled, pairs.reshape(phones, phones))


@dataclass(frozen=True)
class _Table:
    """Mean error of the cells of each pair of phones, speaker of A and B, and speaker of X; and their numbers.

    Within speakers the speaker of X is left out (all weights of X are 1).
    """

    entries: Int64[np.ndarray, "entry 3"]  # pair of phones, speaker of A and B, speaker of X; sorted
    errors: Float64[np.ndarray, " entry"]
    counts: Float64[np.ndarray, " entry"]
    speakers: Int64[np.ndarray, " speaker"]
    phones: int
    symmetric: bool

    @classmethod
    def of(cls, groups: Groups, cells: Cells, scores: Scores, phones: int) -> "_Table":
        speakers, roles = np.unique(
            np.stack([groups.speaker[cells.a], groups.speaker[cells.x]], axis=1), return_inverse=True
        )
        pair = groups.phone[cells.a] * phones + groups.phone[cells.b]
        columns = np.column_stack([pair, roles.reshape(-1, 2)])
        entries, where = np.unique(columns, axis=0, return_inverse=True)
        counts = np.bincount(where.ravel()).astype(np.float64)
        errors = np.bincount(where.ravel(), 1 - scores) / counts
        return cls(entries, errors, counts, speakers, phones, cells.symmetric)

    def pairs(self, weights: Float64[np.ndarray, "speaker draw"]) -> Float64[np.ndarray, "pair draw"]:
        """The error of each ordered pair of phones when each speaker counts as often as was drawn; NaN for none."""
        pair, speaker, other = self.entries.T
        of_x = (np.ones_like(weights) if self.symmetric else weights)[other] * self.counts[:, None]
        rows, starts = np.unique(pair * len(self.speakers) + speaker, return_index=True)
        sums, totals = np.add.reduceat(of_x * self.errors[:, None], starts), np.add.reduceat(of_x, starts)
        weight = np.where(totals > 0, weights[rows % len(self.speakers)], 0)
        means = sums / np.where(totals > 0, totals, 1)
        known, first = np.unique(rows // len(self.speakers), return_index=True)
        errors = np.full((self.phones**2, weights.shape[1]), np.nan)
        with np.errstate(invalid="ignore"):
            errors[known] = np.add.reduceat(weight * means, first) / np.add.reduceat(weight, first)
        return errors

    def replicates(self, seed: int) -> Float64[np.ndarray, " draw"]:
        """The error when speakers are drawn with replacement, many times; NaN where nobody is left to compare."""
        generator, n = numpy_generator(seed, "abx bootstrap"), len(self.speakers)
        weights = generator.multinomial(n, np.full(n, 1 / n), size=REPLICATES).T.astype(np.float64)
        size = max(1, _VALUES_AT_ONCE // max(len(self.errors), self.phones**2))
        blocks = np.split(weights, range(size, REPLICATES, size), axis=1)
        return np.concatenate([_mean_of_known(self.pairs(block)) for block in blocks])


def _mean_of_known(errors: Float64[np.ndarray, "pair draw"]) -> Float64[np.ndarray, " draw"]:
    known = np.isfinite(errors)
    count = known.sum(0)
    means: Float64[np.ndarray, " draw"] = np.where(
        count, np.where(known, errors, 0).sum(0) / np.maximum(count, 1), np.nan
    )
    return means


def _over_pairs(errors: Float64[np.ndarray, " pair"], seed: int) -> Float64[np.ndarray, " draw"]:
    draws = numpy_generator(seed, "abx bootstrap").integers(len(errors), size=(REPLICATES, len(errors)))
    means: Float64[np.ndarray, " draw"] = errors[draws].mean(1)
    return means
