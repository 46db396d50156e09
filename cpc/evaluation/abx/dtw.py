"""Dynamic time warping of many pairs at once: the mean frame distance along the cheapest path.

C[i, j] = d[i, j] + min(C[i−1, j−1], C[i, j−1], C[i−1, j]), and the result is C at the end over the number of cells
on the path. Where predecessors cost the same, the path comes diagonally, else from the left (j − 1), else from above:
the rule of Libri-Light's `dtw.pyx` and of fastabx's torchdtw, which walk back from the end. What a step back does
depends on that cell alone, so the length can be carried along in the forward pass, and nothing is kept for a walk.

Cells of one anti-diagonal do not depend on each other: one operation handles a whole one, for all pairs of a batch.
Choosing by a mask is slow on a CPU, where the processor cannot guess the mask; `lerp` with a weight of 0 or 1
chooses exactly (its arguments are whole numbers) without a branch.
"""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

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
