"""Examples are frames of the table, with their neighbours of the same utterance where asked for."""

import numpy as np
import pytest
import torch

from cpc.evaluation.features import FrameTable
from cpc.evaluation.probes.dataset import Examples


@pytest.fixture
def table() -> FrameTable:
    """Frames 0 … 8 of one channel in utterances of 4, 0 and 5 frames."""
    return FrameTable(torch.arange(9.0)[:, None], np.array([0, 4, 4, 9]))


def examples(table: FrameTable, places: list[int], context: int = 0) -> Examples:
    chosen = np.array(places)
    return Examples(table, chosen, chosen % 3, table.owners[chosen], context)


def test_neighbours_end_where_the_utterance_ends(table: FrameTable) -> None:
    x = examples(table, [0, 2, 3, 4, 8], context=2).x()
    expected = [[0, 0, 0, 1, 2], [0, 1, 2, 3, 3], [1, 2, 3, 3, 3], [4, 4, 4, 5, 6], [6, 7, 8, 8, 8]]
    assert x.tolist() == expected
    assert examples(table, [0], context=2).dim == 5


def test_parts_are_rows_of_the_whole(table: FrameTable) -> None:
    for context in (0, 1):
        all_of_them = examples(table, list(range(9)), context)
        chosen = np.array([7, 2, 2])
        assert torch.equal(all_of_them.x(chosen), all_of_them.x()[chosen])
        assert torch.equal(all_of_them.take(chosen).x(), all_of_them.x()[chosen])
    assert examples(table, list(range(9))).x() is table.frames


def test_a_draw_keeps_the_order_and_repeats(table: FrameTable) -> None:
    given = examples(table, list(range(9)))
    first, second = (given.draw(4, np.random.default_rng(1)) for _ in range(2))
    assert (first.places == second.places).all()
    assert len(first) == 4
    assert (np.diff(first.places) > 0).all()
    assert given.draw(9, np.random.default_rng(1)) is given


def test_labels_become_places_among_the_classes(table: FrameTable) -> None:
    given = Examples(table, np.arange(4), np.array([5, 2, 9, 7]), table.owners[:4])
    assert given.renumbered(np.array([2, 5, 7])).y.tolist() == [1, 0, 3, 2]


def test_a_table_of_some_utterances(table: FrameTable) -> None:
    part = table.take(np.array([2, 1, 0]))
    assert part.counts.tolist() == [5, 0, 4]
    assert part.frames[:, 0].tolist() == [4, 5, 6, 7, 8, 0, 1, 2, 3]
    assert part.owners.tolist() == [0] * 5 + [2] * 4
