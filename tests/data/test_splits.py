"""Held-out groups are whole groups, the same every time."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.data.pack import pack
from cpc.data.shards import Source
from cpc.data.splits import extents, hold_out, hold_out_within, overlap, overlaps, read_splits, write_split
from tests.packed import make_corpus

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


def ranked(names: set[str], seed: int) -> list[str]:
    """Names in the order in which they are held out."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())


@pytest.mark.parametrize("by", ["utterance", "speaker", "chapter"])
def test_hold_out_takes_the_first_by_hash(corpus: Corpus, by: str) -> None:
    chapters = [f"{speaker}/{chapter}" for speaker, chapter in zip(corpus.speakers, corpus.chapters, strict=True)]
    names = {"utterance": corpus.ids, "speaker": corpus.speakers, "chapter": chapters}[by]
    _, held = hold_out(corpus, 0.4, 3, by)  # type: ignore[arg-type]
    first = ranked(set(names), 3)[: round(0.4 * len(set(names)))]
    assert held.tolist() == [row for row, name in enumerate(names) if name in first]


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.99])
@pytest.mark.parametrize("by", ["utterance", "chapter"])
def test_within_speakers_every_speaker_is_on_both_sides(corpus: Corpus, by: str, share: float) -> None:
    train, held, left_out = hold_out_within(corpus, share, 7, by)  # type: ignore[arg-type]
    assert sorted([*train, *held]) == list(range(len(corpus)))
    assert not len(left_out)
    shared = overlap(corpus, train, held)
    assert shared.utterances == 0
    assert shared.speakers == 3
    assert by == "utterance" or shared.chapters == 0
    # Each of 3 speakers has 8 utterances and 4 chapters of 2: of n, round(n · share) are held out, 1 to n − 1.
    groups = 8 if by == "utterance" else 4
    count = min(max(round(share * groups), 1), groups - 1) * 8 // groups
    assert all(sum(corpus.speakers[row] == speaker for row in held) == count for speaker in ("s0", "s1", "s2"))


def test_within_a_speaker_the_first_by_hash_are_held_out(corpus: Corpus) -> None:
    held = hold_out_within(corpus, 0.25, 5, "utterance").test.tolist()
    for speaker in ("s0", "s1", "s2"):
        own = {id for id, name in zip(corpus.ids, corpus.speakers, strict=True) if name == speaker}
        assert {corpus.ids[row] for row in held if corpus.speakers[row] == speaker} == set(ranked(own, 5)[:2])


def test_who_has_only_one_is_on_neither_side(tmp_path: Path) -> None:
    # a has two chapters, b one of two utterances, c a single utterance.
    ids = ["a-1-0", "a-1-1", "a-2-0", "b-1-0", "b-1-1", "c-1-0"]
    corpus = make_corpus(tmp_path, dict.fromkeys(ids, 0.1))
    by_chapter = hold_out_within(corpus, 0.5, 0, "chapter")
    assert sorted(corpus.ids[row] for row in by_chapter.left_out) == ["b-1-0", "b-1-1", "c-1-0"]
    by_utterance = hold_out_within(corpus, 0.5, 0, "utterance")
    assert [corpus.ids[row] for row in by_utterance.left_out] == ["c-1-0"]
    some = hold_out_within(corpus, 0.5, 0, "utterance", rows=np.array([0, 2, 3, 5]))  # b is left with one
    assert sorted([*some.train, *some.test]) == [0, 2]
    assert sorted(some.left_out) == [3, 5]
    with pytest.raises(InputError, match=r"no speaker of .* has two chapters"):
        hold_out_within(corpus, 0.5, 0, "chapter", rows=np.array([3, 4, 5]))
    with pytest.raises(InputError, match="between 0 and 1"):
        hold_out_within(corpus, 0.0, 0, "utterance")


def test_any_two_splits_are_compared_at_once(corpus: Corpus) -> None:
    splits = {"a": np.array([0, 1, 6]), "b": np.array([3, 6]), "c": np.array([2])}
    found = overlaps(corpus, splits)
    assert set(found) == {("a", "b"), ("a", "c"), ("b", "c")}
    # Rows 0, 1, 6 are s0/0, s1/0, s0/1; rows 3, 6 are s0/0 and s0/1; row 2 is s2/0.
    assert found["a", "b"] == (1, 1, 2)
    assert found["a", "c"] == found["b", "c"] == (0, 0, 0)
    for (one, other), shared in found.items():
        assert shared == overlap(corpus, splits[one], splits[other])


def test_extents_count_what_is_known(corpus: Corpus, tmp_path: Path) -> None:
    extent = extents(corpus, {"x": np.array([0, 1, 6, 6])})["x"]  # twice is once
    assert extent == (3, pytest.approx(corpus.samples[[0, 1, 6]].sum() / 16000), 2, 3)
    unknown = make_corpus(tmp_path, {"a--1": 0.1, "b-1-1": 0.1})  # a's chapter is not known
    assert extents(unknown, {"": np.arange(2)})[""][2:] == (2, 1)


def test_what_nobody_knows_is_not_shared(tmp_path: Path, sources: Make) -> None:
    nameless = [replace(source, speaker="", chapter="") for source in sources(4)]
    pack(nameless, tmp_path / "out", progress=False)
    corpus = Corpus.open(tmp_path / "out")
    assert overlap(corpus, np.array([0, 1]), np.array([1, 2])) == (1, 0, 0)


def test_a_split_that_cannot_be_used_does_not_hide_the_others(corpus: Corpus) -> None:
    write_split(corpus.path, "good", ["u05", "u02"])
    write_split(corpus.path, "ghosts", ["u05", "nobody"])
    (corpus.path / "splits" / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    rows, broken = read_splits(corpus)
    assert {name: each.tolist() for name, each in rows.items()} == {"good": [5, 2]}
    assert set(broken) == {"ghosts", "bytes"}
    assert "1 of 2 ids are not in" in broken["ghosts"]
    assert broken["bytes"].startswith("split=bytes: ")
