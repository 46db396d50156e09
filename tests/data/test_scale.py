"""What must not grow with a corpus: the cost of a window, and what is read to group its rows."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cpc.config import InputError
from cpc.data import shards
from cpc.data.corpus import HEADER, Corpus
from cpc.data.pack import pack
from cpc.data.shards import Source

Make = Callable[[int], list[Source]]


@pytest.fixture
def corpus(tmp_path: Path, sources: Make) -> Corpus:
    pack(sources(20), tmp_path / "out", shard_samples=3000, progress=False)
    return Corpus.open(tmp_path / "out")


def test_windows_are_read_without_a_memory_map(corpus: Corpus) -> None:
    """A random window of a large corpus is in a shard that is not open: a map for it would be made and thrown away."""
    rows = np.arange(20)
    corpus.gather(rows, np.zeros(20, np.int64), 200, out := np.zeros((20, 200), np.int16))
    assert corpus._map.cache_info().currsize == 0
    assert np.array_equal(out, np.stack([corpus.waveform(row, 0, 200) for row in range(20)]))


@pytest.mark.parametrize("samples", [0, 1, 1 << 25, 1 << 40])
def test_samples_begin_behind_a_header_of_one_length(tmp_path: Path, samples: int) -> None:
    with (tmp_path / "shard.npy").open("wb") as file:
        shards._write_header(file, samples)
        assert file.tell() == HEADER


def test_a_shard_that_is_cut_short_is_named(corpus: Corpus) -> None:
    row = int(np.flatnonzero(corpus.shard == 1)[-1])
    os.truncate(corpus.path / "shards/00001.npy", HEADER + 2 * (int(corpus.offset[row]) + 199))
    with pytest.raises(InputError, match=r"00001\.npy is cut short; copy or pack the corpus again"):
        corpus.gather(np.array([row]), np.array([0]), 200, np.zeros((1, 200), np.int16))


@pytest.mark.parametrize("start", [-1, 10**6])
def test_a_window_outside_its_utterance_is_refused(corpus: Corpus, start: int) -> None:
    with pytest.raises(ValueError, match="must lie within the utterances of rows"):
        corpus.gather(np.array([3]), np.array([start]), 200, np.zeros((1, 200), np.int16))


@pytest.mark.parametrize("column", ["speaker", "chapter", "id"])
def test_groups_are_the_sorted_values_and_each_rows_place_in_them(corpus: Corpus, column: str) -> None:
    values = corpus.column(column).to_pylist()
    names, place = corpus.groups(column)
    assert names == sorted(set(values))
    assert [names[group] for group in place] == values
