"""Distances between the items of the groups that meet in cells, each computed once.

Frames of groups that lie side by side form a strip. For two strips that have groups to compare, one matrix product
gives all their frames against each other; the cells of that matrix that belong to pairs of items are then gathered,
many pairs at a time and pairs of similar size together, in the order in which `dtw.warp` takes them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from cpc.evaluation.abx.distance import Distance, finish, prepare, product
from cpc.evaluation.abx.dtw import diagonal_order, warp
from cpc.evaluation.abx.groups import Cells, Groups

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
