"""Distances between the items of the groups that meet in cells, each computed once.

Frames of groups that lie side by side form a strip. For two strips that have groups to compare, one matrix product
gives all their frames against each other; the cells of that matrix that belong to pairs of items are then gathered,
many pairs at a time and pairs of similar size together, in the order in which `dtw.warp` takes them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from cpc.evaluation.abx.cells import Cells, Groups
from cpc.evaluation.abx.distance import Distance, diagonal_order, finish, prepare, product, warp
from cpc.seeding import numpy_generator

STRIP = 2048  # frames of a strip, more only where a single group has more
COARSE = 4  # frames: pairs whose heights differ by less may share a batch

Places = Int64[np.ndarray, " _"]


class Sizes(NamedTuple):
    """How much is done at once: values of a matrix product, cells of a batch of pairs."""

    product: int
    batch: int

    @classmethod
    def of(cls, device: torch.device) -> "Sizes":
        """What a CPU's cache is happy with, or what fills a GPU."""
        return cls(1 << 24, 1 << 20) if device.type == "cpu" else cls(1 << 28, 1 << 26)


@dataclass(frozen=True)
class Distances:
    """Distances between the items of group pairs (g, h), g ≤ h: sizes[g] × sizes[h] values from starts[pair] on.

    values[0] has the items of g as the rows of the warping, values[1] those of h; see `dtw.warp`. An item is at 0 from
    itself.
    """

    keys: Places  # g · groups + h, sorted
    starts: Places
    values: Float32[Tensor, "2 value"]
    groups: Groups

    def places(self, x: Places, y: Places) -> tuple[Places, Places, Places, Places]:
        """For pairs of groups: row of `values`, place of the first value, and its steps along X and along Y."""
        low, high = np.minimum(x, y), np.maximum(x, y)
        start = self.starts[np.searchsorted(self.keys, low * len(self.groups) + high)]
        flipped, width = (x > y).astype(np.int64), self.groups.sizes[high]
        return flipped, start, np.where(flipped, 1, width), np.where(flipped, width, 1)

    def between(self, x: int, y: int) -> Float32[Tensor, "x y"]:
        """All distances from items of group x to items of group y."""
        row, start, down, along = (int(each[0]) for each in self.places(np.array([x]), np.array([y])))
        shape = (int(self.groups.sizes[x]), int(self.groups.sizes[y]))
        return self.values[row].as_strided(shape, (down, along), row * self.values.shape[1] + start)


@dataclass(frozen=True)
class Stretches:
    """Where the frames of each member of the groups lie in the table of all frames."""

    frames: Float32[Tensor, "frame dim"]
    starts: Int64[np.ndarray, " member"]
    counts: Int64[np.ndarray, " member"]


@dataclass(frozen=True)
class _Layout:
    """Groups cut into strips, and where things lie in them."""

    strip: Places  # of each group
    origin: Places  # first frame of each strip, all frames of all members counted through
    length: Places  # frames of each strip
    flat: Places  # first frame of each member, counted through

    @classmethod
    def of(cls, groups: Groups, counts: Places) -> "_Layout":
        ends = np.concatenate([[0], np.cumsum(counts)])
        edges = ends[groups.bounds]  # frames before each group
        strip, first, number = np.zeros(len(groups), np.int64), 0, 0
        block = groups.context * (groups.speaker.max(initial=0) + 1) + groups.speaker
        for g in range(len(groups)):
            if g > first and (block[g] != block[first] or edges[g + 1] - edges[first] > STRIP):
                first, number = g, number + 1
            strip[g] = number
        starts = np.flatnonzero(np.diff(strip, prepend=-1))
        origin = edges[starts]
        return cls(strip, origin, np.diff(np.append(origin, ends[-1])), ends[:-1])


class _Tiles(NamedTuple):
    """Matrix products that are done together."""

    first: Places  # strip whose frames are the rows of each
    second: Places  # strip whose frames are the columns
    offset: Places  # of each in the buffer
    pairs: Places  # places of group pairs
    tile: Places  # which of these tiles each group pair is in


def measure(groups: Groups, cells: Cells, stretches: Stretches, distance: Distance, device: torch.device) -> Distances:
    """The distances that the cells need. Raises InputError for features that the distance cannot take."""
    sizes, count = Sizes.of(device), len(groups)
    low, high = (np.concatenate([f(cells.x, cells.a), f(cells.x, cells.b)]) for f in (np.minimum, np.maximum))
    keys = np.unique(low * count + high)
    areas = groups.sizes[keys // count] * groups.sizes[keys % count]
    starts = np.cumsum(areas) - areas
    found = Distances(keys, starts, torch.zeros(2, int(areas.sum())), groups)
    layout = _Layout.of(groups, stretches.counts)
    for tiles in _batches(layout, keys // count, keys % count, sizes.product):
        buffer = _products(tiles, layout, stretches, distance, device)
        _fill(found, tiles, layout, stretches.counts, buffer, distance, sizes.batch)
    return found


def _batches(layout: _Layout, g: Places, h: Places, most: int) -> Iterator[_Tiles]:
    """Tiles in the order of their strips, as many at a time as fit in `most` values."""
    strips = len(layout.origin)
    key = layout.strip[g] * strips + layout.strip[h]
    order = np.argsort(key, kind="stable")
    tiles, starts = np.unique(key[order], return_index=True)
    first, second = tiles // strips, tiles % strips
    areas = layout.length[first] * layout.length[second]
    batch = (np.cumsum(areas) - areas) // most
    edges = np.append(np.flatnonzero(np.diff(batch, prepend=-1)), len(tiles))
    ends = np.append(starts, len(order))
    for a, b in pairwise(edges.tolist()):
        pairs = order[ends[a] : ends[b]]
        offset = np.cumsum(areas[a:b]) - areas[a:b]
        yield _Tiles(first[a:b], second[a:b], offset, pairs, np.repeat(np.arange(b - a), np.diff(ends[a : b + 1])))


def _products(
    tiles: _Tiles, layout: _Layout, stretches: Stretches, distance: Distance, device: torch.device
) -> Float32[Tensor, " value"]:
    strips = np.unique(np.concatenate([tiles.first, tiles.second]))
    rows = np.concatenate([_rows(layout, stretches, strip) for strip in strips.tolist()])
    frames = prepare(stretches.frames[torch.from_numpy(rows).to(stretches.frames.device)].to(device), distance)
    ends = np.cumsum(layout.length[strips])
    where = {s: slice(e - n, e) for s, e, n in zip(strips.tolist(), ends, layout.length[strips], strict=True)}
    areas = layout.length[tiles.first] * layout.length[tiles.second]
    buffer = torch.empty(int(areas.sum()), device=device)
    for first, second, offset, area in zip(*(x.tolist() for x in (*tiles[:3], areas)), strict=True):
        x, y = frames[where[first]], frames[where[second]]
        product(x, y, distance, buffer[offset : offset + area].view(len(x), len(y)))
    return buffer


def _rows(layout: _Layout, stretches: Stretches, strip: int) -> Places:
    """Rows of the table for the frames of a strip, member after member."""
    start, stop = layout.origin[strip], layout.origin[strip] + layout.length[strip]
    members = slice(*np.searchsorted(layout.flat, [start, stop]).tolist())
    counts = stretches.counts[members]
    return np.repeat(stretches.starts[members] - (layout.flat[members] - start), counts) + np.arange(stop - start)


class _ItemPairs(NamedTuple):
    base: Places  # place of each pair's first cell in the buffer
    stride: Places  # from one row to the next
    heights: Places
    widths: Places
    value: Places  # where its distance goes
    mirror: Places  # and that of the same two the other way round; −1 where that is no value of its own


def _fill(
    found: Distances, tiles: _Tiles, layout: _Layout, counts: Places, buffer: Tensor, distance: Distance, most: int
) -> None:
    pairs = _item_pairs(found, tiles, layout, counts)
    for chosen in _alike(pairs.heights, pairs.widths, most):
        heights, widths = pairs.heights[chosen], pairs.widths[chosen]
        rows, columns = int(heights.max()), int(widths.max())
        cells = _gather(buffer, pairs.base[chosen], pairs.stride[chosen], rows, columns)
        finish(cells, distance)
        both = warp(cells, rows, columns, heights, widths).cpu()
        found.values[:, torch.from_numpy(pairs.value[chosen])] = both
        mirrored = pairs.mirror[chosen] >= 0
        where = torch.from_numpy(pairs.mirror[chosen][mirrored])
        found.values[:, where] = both[:, torch.from_numpy(mirrored)].flip(0)


def _item_pairs(found: Distances, tiles: _Tiles, layout: _Layout, counts: Places) -> _ItemPairs:
    groups = found.groups
    g, h = np.divmod(found.keys[tiles.pairs], len(groups))
    n, m = groups.sizes[g], groups.sizes[h]
    pair = np.repeat(np.arange(len(g)), n * m)
    i, j = np.divmod(np.arange(len(pair)) - np.repeat(np.cumsum(n * m) - n * m, n * m), m[pair])
    kept = (g != h)[pair] | (i < j)  # within a group: no item with itself, and each two once
    pair, i, j = pair[kept], i[kept], j[kept]
    row, column, tile = groups.bounds[g[pair]] + i, groups.bounds[h[pair]] + j, tiles.tile[pair]
    width = layout.length[tiles.second[tile]]
    down = layout.flat[row] - layout.origin[tiles.first[tile]]
    along = layout.flat[column] - layout.origin[tiles.second[tile]]
    start = found.starts[tiles.pairs[pair]]
    mirror = np.where(g[pair] == h[pair], start + j * m[pair] + i, -1)
    base = tiles.offset[tile] + down * width + along
    return _ItemPairs(base, width, counts[row], counts[column], start + i * m[pair] + j, mirror)


def _alike(heights: Places, widths: Places, most: int) -> Iterator[Places]:
    """Pairs of similar size together, large ones first, so many that their cells are about `most`."""
    order = np.lexsort((widths, heights // COARSE))[::-1]
    start = 0
    while start < len(order):
        rows = int(heights[order[start]]) // COARSE * COARSE + COARSE - 1
        stop = start + max(1, most // (rows * int(widths[order[start]])))
        yield order[start:stop]
        start = stop


def _gather(
    buffer: Float32[Tensor, " value"], base: Places, stride: Places, rows: int, columns: int
) -> Float32[Tensor, "cell pair"]:
    """The cells of padded matrices in the buffer, anti-diagonal by anti-diagonal; beyond a matrix anything may be."""
    whole = np.int32 if len(buffer) + rows * int(stride.max()) < 1 << 31 else np.int64  # half the memory where it does
    numbers = (*diagonal_order(rows, columns), base, stride)
    row, column, first, step = (torch.from_numpy(each.astype(whole)).to(buffer.device) for each in numbers)
    places = (row[:, None] * step).add_(column[:, None]).add_(first).clamp_(max=len(buffer) - 1)
    return buffer.index_select(0, places.flatten()).view(places.shape)


# --- From distances to an error: cells, then the mean over contexts, speakers and pairs of phones, and its interval.


REPLICATES = 2000
_AT_ONCE = 1 << 22  # triplets compared at once
_VALUES_AT_ONCE = 1 << 22  # of resampled means: 32 MiB

Scores = Float64[np.ndarray, " cell"]
Resampled = Literal["speakers", "phone pairs"]


def score_cells(distances: Distances, cells: Cells) -> Scores:
    """The share of triplets of each cell in which X is nearer to A, ties counted ½."""
    sizes = distances.groups.sizes
    scores = np.empty(len(cells))
    for chosen in _cells_by_size(*(sizes[groups[...]] for groups in (cells.x, cells.a, cells.b))):
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


def _cells_by_size(*sizes: Int64[np.ndarray, " cell"]) -> Iterator[Int64[np.ndarray, " some"]]:
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
class ErrorSummary:
    """The error with its 95% interval, 0 to 1, and the error of each ordered pair of phones (NaN: no cell)."""

    error: float
    low: float
    high: float
    resampled: Resampled
    pairs: Float64[np.ndarray, "phone phone"]


def summarise(groups: Groups, cells: Cells, scores: Scores, phones: int, seed: int = 0) -> ErrorSummary:
    """Average the cells, and resample speakers for the interval."""
    table = _Table.of(groups, cells, scores, phones)
    pairs = table.pairs(np.ones((len(table.speakers), 1)))[:, 0]
    several = len(table.speakers) > 1
    errors = table.replicates(seed) if several else _over_pairs(pairs[np.isfinite(pairs)], seed)
    low, high = np.nanquantile(errors, [0.025, 0.975])
    resampled: Resampled = "speakers" if several else "phone pairs"
    return ErrorSummary(float(np.nanmean(pairs)), float(low), float(high), resampled, pairs.reshape(phones, phones))


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
