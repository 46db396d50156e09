"""The batched warping is the one that fills in a table and walks back from its end."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cpc.evaluation.abx.distance import align, diagonal_order, warp
from tests.evaluation.abx.reference import warp as walk


def matrices(seed: int, pairs: int, rows: int, columns: int, levels: int | None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if levels is None:
        return torch.rand(pairs, rows, columns, generator=generator)
    return torch.randint(levels, (pairs, rows, columns), generator=generator).float()


# Whole numbers of few levels are full of ties; sums of them are exact, so the paths must agree cell by cell.
@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    levels=st.sampled_from([1, 2, 3, None]),
)
def test_each_pair_of_a_padded_batch_is_that_of_the_oracle(seed: int, rows: int, columns: int, levels: int) -> None:
    d = matrices(seed, 7, rows, columns, levels)
    generator = np.random.default_rng(seed)
    heights, widths = generator.integers(1, rows + 1, 7), generator.integers(1, columns + 1, 7)
    row, column = diagonal_order(rows, columns)
    there, back = warp(d[:, row, column].T.contiguous(), rows, columns, heights, widths)
    for p in range(7):
        own = d[p, : heights[p], : widths[p]]
        assert there[p].item() == pytest.approx(walk(own.tolist()), rel=1e-6)
        assert back[p].item() == pytest.approx(walk(own.T.tolist()), rel=1e-6)
    assert torch.equal(align(d, heights, widths), there)


def test_the_order_of_cells_is_by_anti_diagonals() -> None:
    row, column = diagonal_order(2, 3)
    assert list(zip(row.tolist(), column.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (1, 2)]


def test_paths_of_equal_cost_come_diagonally_then_from_the_left() -> None:
    # All cells cost 1. From (1, 2) back: (0, 1) costs 2 as (0, 2)'s 3 and (1, 1)'s 2: diagonal, 3 cells, 3 in all.
    assert align(torch.ones(1, 2, 3)).item() == 1
    # To (1, 1) by way of (0, 1) or (1, 0), 0 each, or of (0, 0), 1: the sides are taken, the left one, over (1, 0).
    d = torch.tensor([[[1.0, 0.0], [0.0, 5.0]]])
    assert align(d).item() == pytest.approx((1 + 5) / 2)  # the diagonal costs 6 in all, as the sides do: 2 cells
    d = torch.tensor([[[1.0, -1.0], [-1.0, 5.0]]])  # now the sides are cheaper: 3 cells
    assert align(d).item() == pytest.approx((1 - 1 + 5) / 3)


def test_a_tie_of_the_sides_makes_a_matrix_and_its_transpose_differ() -> None:
    # At the end (2, 2) the ways from the left (2, 1) and from above (1, 2) cost the same, the diagonal more; but the
    # left one took a diagonal step and has 4 cells, the upper one has 5.
    d = torch.tensor([[[1.0, 1.0, 1.0], [8.0, 9.0, 1.0], [8.0, 2.0, 1.0]]])
    rows = d[0].tolist()
    there, back = walk(rows), walk(torch.tensor(rows).T.tolist())
    row, column = diagonal_order(3, 3)
    both = warp(d[:, row, column].T.contiguous(), 3, 3, np.array([3]), np.array([3]))[:, 0]
    assert both.tolist() == pytest.approx([there, back])


def test_identical_stretches_are_at_zero_and_stretching_one_keeps_it() -> None:
    x = torch.arange(5.0)
    stretched = torch.repeat_interleave(x, torch.tensor([1, 3, 2, 1, 4]))
    assert align((x[:, None] - x).abs()[None]).item() == 0
    assert align((x[:, None] - stretched).abs()[None]).item() == 0


@pytest.mark.cuda
def test_a_gpu_gives_the_same(cuda: torch.device) -> None:
    d = matrices(0, 50, 12, 9, None)
    row, column = diagonal_order(12, 9)
    cells = d[:, row, column].T.contiguous()
    heights, widths = np.full(50, 12), np.full(50, 9)
    there = warp(cells.to(cuda), 12, 9, heights, widths)
    assert torch.allclose(there.cpu(), warp(cells, 12, 9, heights, widths), atol=1e-6)
