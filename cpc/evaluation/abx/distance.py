"""Distances between frames, of all frames of one stretch with all of another by one matrix product.

`angular` is the angle between two vectors as a share of a half turn, arccos(cosine)/π, the usual one for ABX
(Schatz 2016; ZeroSpeech and Libri-Light call it cosine). `euclidean` is the length of the difference. `kl` is the
Kullback-Leibler divergence, both ways, halved: for posteriorgrams.

The product is kept; what turns it into a distance is applied only to those of its values that are needed.
"""

import math
from functools import lru_cache
from typing import Literal, assert_never

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from cpc.config import InputError

Distance = Literal["angular", "euclidean", "kl"]
Rows = Float[Tensor, "row _"]
Columns = Float[Tensor, "column _"]
_FLOOR = 1e-6  # added to a probability before its logarithm, as fastabx does


def prepare(frames: Float[Tensor, "row dim"], distance: Distance) -> Rows:
    """What the product is made of. Raises InputError for values that the distance is not defined for."""
    if not bool(torch.isfinite(frames.sum())):  # one pass; a single value that is not finite is enough
        raise InputError("features: hold values that are not finite; train or extract them again")
    match distance:
        case "angular":
            return _directions(frames)
        case "euclidean":
            return frames.double()  # squares cancel: single precision would be coarse for near vectors
        case "kl":
            return _with_logarithms(frames)
        case _:
            assert_never(distance)


def product(x: Rows, y: Columns, distance: Distance, out: Float32[Tensor, "row column"]) -> None:
    """For prepared frames, into `out`: the cosine, the squared distance, or the divergence itself."""
    match distance:
        case "angular":
            torch.mm(x, y.T, out=out)
        case "euclidean":
            squares = x.square().sum(1)[:, None] + y.square().sum(1)
            out.copy_(torch.addmm(squares, x, y.T, alpha=-2))
        case "kl":
            (p, log_p), (q, log_q) = x.chunk(2, dim=1), y.chunk(2, dim=1)
            own = (p * log_p).sum(1)[:, None] + (q * log_q).sum(1)
            out.copy_((own - p @ log_q.T - log_p @ q.T) / 2)
        case _:
            assert_never(distance)


def finish(values: Float32[Tensor, "*shape"], distance: Distance) -> None:
    """Products become distances, in place."""
    match distance:
        case "angular":
            values.clamp_(-1, 1).acos_().div_(math.pi)
        case "euclidean":
            values.clamp_(min=0).sqrt_()
        case "kl":
            values.clamp_(min=0)
        case _:
            assert_never(distance)


def _directions(frames: Float[Tensor, "row dim"]) -> Rows:
    """Unit vectors. The zero vector, which has no direction, is at 0 from itself and at 1 from all others.

    Libri-Light's convention; it takes one dimension more, with which a zero vector's product with any other is −2
    and with itself beyond 1, and is added only where it is needed.
    """
    norms = frames.norm(dim=1, keepdim=True)
    zero = norms == 0
    unit: Rows = frames / norms.masked_fill(zero, 1)
    if not bool(zero.any()):
        return unit
    return torch.cat([unit, torch.where(zero, -2e6, 1e-6).to(unit)], dim=1)


def _with_logarithms(frames: Float[Tensor, "row dim"]) -> Rows:
    """Probabilities beside their logarithms, centred: it changes nothing and rounds less."""
    sums = frames.sum(1)
    if bool((frames < 0).any()) or not bool(((sums - 1).abs() < 1e-3).all()):
        raise InputError("distance=kl: features must be probabilities, each frame adding up to 1; take angular")
    logs = (frames + _FLOOR).log()
    return torch.cat([frames, logs - logs.mean(1, keepdim=True)], dim=1)


# --- Dynamic time warping of many pairs at once: the mean frame distance along the cheapest path.


Lengths = Int64[np.ndarray, " pair"]


@lru_cache(64)
def diagonal_order(rows: int, columns: int) -> tuple[Int64[np.ndarray, " cell"], Int64[np.ndarray, " cell"]]:
    """Row and column of every cell of a matrix, anti-diagonal by anti-diagonal, rows upwards within each."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    order = np.lexsort((row, row + column))
    return row[order], column[order]


class _Paths:
    """Cost and length of the best path to each cell of the last three anti-diagonals, by the row of the cell.

    Row i is kept at i + 1: place 0 is the row above the first, which no path reaches.
    """

    def __init__(self, rows: int, pairs: int, like: Tensor) -> None:
        self.cost = [like.new_full((rows + 1, pairs), torch.inf) for _ in range(3)]
        self.length = [like.new_ones(2, rows + 1, pairs) for _ in range(3)]
        self._cheaper, self._shorter = like.new_empty(rows, pairs), like.new_empty(rows, pairs)
        self._diagonal, self._side = like.new_empty(rows, pairs), like.new_empty(rows, pairs)

    def step(self, k: int, first: int, last: int, distance: Tensor) -> None:
        """Fill in rows first … last of anti-diagonal k."""
        here, size = slice(first + 1, last + 2), last - first + 1
        above = slice(first, last + 1)
        before = self.cost[(k - 1) % 3]
        left, up, diagonal = before[here], before[above], self.cost[(k - 2) % 3][above]
        cheaper, chosen, side = self._cheaper[:size], self._diagonal[:size], self._side[:size]
        torch.minimum(left, up, out=cheaper)
        torch.le(diagonal, cheaper, out=chosen)
        torch.minimum(cheaper, diagonal, out=self.cost[k % 3][here]).add_(distance)
        for way, compare in enumerate((torch.le, torch.lt)):  # at a tie of the sides: from the left; from above
            compare(left, up, out=side)
            length, shorter = self.length[(k - 1) % 3][way], self._shorter[:size]
            torch.lerp(length[above], length[here], side, out=shorter)
            before_last = self.length[(k - 2) % 3][way][above]
            torch.lerp(shorter, before_last, chosen, out=self.length[k % 3][way][here]).add_(1)


def warp(
    distance: Float32[Tensor, "cell pair"], rows: int, columns: int, heights: Lengths, widths: Lengths
) -> Float32[Tensor, "2 pair"]:
    """Mean distance along the path for padded matrices, given cell by cell in `diagonal_order(rows, columns)`.

    Pair p has heights[p] rows and widths[p] columns; what lies beyond is ignored. The first result is for the matrix
    as it is, the second for its transpose: they differ only where paths of different lengths cost exactly the same.
    """
    pairs = distance.shape[1]
    paths, ends = _Paths(rows, pairs, distance), heights + widths - 2
    result = distance.new_empty(2, pairs)
    paths.cost[0][1] = distance[0]
    start = 0
    for k in range(rows + columns - 1):
        first, last = max(0, k - columns + 1), min(k, rows - 1)
        stop = start + last - first + 1
        if k:
            paths.step(k, first, last, distance[start:stop])
        if len(done := np.flatnonzero(ends == k)):
            where = torch.from_numpy(done).to(distance.device)
            end = torch.from_numpy(heights[done]).to(distance.device)  # row heights − 1, kept one further
            result[:, where] = paths.cost[k % 3][end, where] / paths.length[k % 3][:, end, where]
        start = stop
    return result


def align(
    distance: Float32[Tensor, "pair row column"], heights: Lengths | None = None, widths: Lengths | None = None
) -> Float32[Tensor, " pair"]:
    """The same for matrices as they usually lie: one number for each pair."""
    pairs, rows, columns = distance.shape
    row, column = diagonal_order(rows, columns)
    cells = distance[:, torch.from_numpy(row), torch.from_numpy(column)].T.contiguous()
    full = np.ones(pairs, np.int64)
    return warp(
        cells,
        rows,
        columns,
        full * rows if heights is None else heights,
        full * columns if widths is None else widths,
    )[0]
