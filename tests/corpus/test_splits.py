"""Held-out groups are whole groups, the same every time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cpc.config import InputError
from cpc.corpus import Corpus, Source, hold_out, overlap, pack, write_split

Make = Callable[[int], list[Source]]


@pytest.fixture
def corpus(tmp_path: Path, sources: Make) -> Corpus:
    pack(sources(24), tmp_path / "out", progress=False)
    return Corpus.open(tmp_path / "out")


@pytest.mark.parametrize(("by", "shared"), [("utterance", 0), ("speaker", 1), ("chapter", 2)])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.99])
def test_hold_out_cuts_between_groups(corpus: Corpus, by: str, shared: int, share: float) -> None:
    train, held = hold_out(corpus, share, 7, by)  # type: ignore[arg-type]
    assert sorted([*train, *held]) == list(range(len(corpus)))
    assert len(train) and len(held)
    assert overlap(corpus, train, held)[shared] == 0


def test_hold_out_depends_on_the_seed_alone(corpus: Corpus) -> None:
    draws = [hold_out(corpus, 0.3, seed, "utterance")[1].tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert len(draws[0]) == round(0.3 * 24)


def test_hold_out_refuses_the_impossible(corpus: Corpus, tmp_path: Path, sources: Make) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        hold_out(corpus, 1.0, 0)
    pack([source for source in sources(6) if source.speaker == "s0"], tmp_path / "one", progress=False)
    with pytest.raises(InputError, match="only 1 speaker"):
        hold_out(Corpus.open(tmp_path / "one"), 0.5, 0)


def test_overlap_counts_what_is_shared(corpus: Corpus) -> None:
    # u00 is s0 in chapter 0, u03 the same; u01 is s1 in chapter 0; u06 is s0 in chapter 1.
    def between(one: str, two: str) -> tuple[int, int, int]:
        return tuple(overlap(corpus, np.array([corpus.row(one)]), np.array([corpus.row(two)])))

    assert between("u00", "u00") == (1, 1, 1)
    assert between("u00", "u03") == (0, 1, 1)
    assert between("u00", "u06") == (0, 1, 0)
    assert between("u00", "u01") == (0, 0, 0)


def test_a_written_split_is_read_back(corpus: Corpus) -> None:
    write_split(corpus.path, "mine", ["u05", "u02"])
    assert corpus.splits() == ["mine"]
    assert corpus.rows("mine").tolist() == [5, 2]
