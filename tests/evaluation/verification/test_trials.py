"""Lists of trials: which pairs, how many of whom, and files of them."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.evaluation.trials import Trials, draw_trials, fair_shares, read_trials, write_trials
from cpc.evaluation.verification import PRIORS, cosines, summarise

EVERYTHING = 10_000


def listed(trials: Trials) -> list[tuple[int, int, bool]]:
    return list(zip(trials.first.tolist(), trials.second.tolist(), trials.target.tolist(), strict=True))


def every_pair(corpus: Corpus, rows: list[int], other_chapters: bool) -> set[tuple[frozenset[int], bool]]:
    """By two loops."""
    found = set()
    for one in rows:
        for two in rows:
            target = corpus.speakers[one] == corpus.speakers[two]
            if one != two and not (target and other_chapters and corpus.chapters[one] == corpus.chapters[two]):
                found.add((frozenset((one, two)), target))
    return found


@pytest.mark.parametrize("other_chapters", [False, True])
def test_all_pairs_where_they_are_few(chords: Corpus, other_chapters: bool) -> None:
    rows = np.random.default_rng(0).permutation(len(chords))[:30]
    trials = draw_trials(chords, rows, other_chapters=other_chapters, most=EVERYTHING)
    found = [(frozenset(pair), target) for *pair, target in listed(trials)]
    assert len(set(found)) == len(found)  # no pair twice, in either order
    assert all(len(pair) == 2 for pair, _ in found)  # none with itself
    assert set(found) == every_pair(chords, rows.tolist(), other_chapters)


@pytest.mark.parametrize("most", [1, 7, 60])
@pytest.mark.parametrize("other_chapters", [False, True])
def test_some_pairs_are_seeded_and_fair(chords: Corpus, most: int, other_chapters: bool) -> None:
    rows = np.arange(len(chords))
    how = {"other_chapters": other_chapters, "most": most}
    trials = draw_trials(chords, rows, **how, seed=3)
    again, other = draw_trials(chords, rows[::-1], **how, seed=3), draw_trials(chords, rows, **how, seed=4)
    assert listed(again) == listed(trials) != listed(other)
    pairs = {(frozenset(pair), target) for *pair, target in listed(trials)}
    assert len(pairs) == len(trials) == 2 * most
    assert pairs <= every_pair(chords, rows.tolist(), other_chapters)
    assert int(trials.target.sum()) == most
    speakers = np.array(chords.speakers)
    sides = np.sort(speakers[np.stack([trials.first, trials.second])], axis=0).T.tolist()
    for kind, cells in ((True, 4), (False, 6)):  # speakers, and pairs of speakers
        counts = Counter(tuple(pair) for pair, target in zip(sides, trials.target, strict=True) if target == kind)
        assert len(counts) == min(cells, most)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_one_speaker_with_much_does_not_outweigh_the_others(chords: Corpus) -> None:
    """s0 has all its 13 utterances and the others 3 each: 3 pairs each of theirs, all of which are taken."""
    taken: Counter[str] = Counter()
    rows = []
    for row, speaker in enumerate(chords.speakers):
        if speaker == "s0" or taken[speaker] < 3:
            rows.append(row)
            taken[speaker] += 1
    trials = draw_trials(chords, np.array(rows), most=15)
    counts = Counter(chords.speakers[row] for row in trials.first[trials.target].tolist())
    assert counts == {"s0": 6, "s1": 3, "s2": 3, "s3": 3}


@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.integers(1, 200), st.integers(0, 5))
def test_shares_are_as_equal_as_the_sizes_allow(sizes: list[int], most: int, seed: int) -> None:
    if sum(sizes) <= most:
        return
    shares = fair_shares(np.array(sizes), most, np.random.default_rng(seed))
    assert shares.sum() == most
    assert (shares <= sizes).all()
    short = [share for share, size in zip(shares.tolist(), sizes, strict=True) if share < size]
    assert max(shares) - min(short) <= 1  # whoever could give more gives as much as anybody, but for one


def test_what_cannot_be_drawn_is_said(chords: Corpus) -> None:
    speakers, chapters = np.array(chords.speakers), np.array(chords.chapters)
    with pytest.raises(InputError, match=r"test: holds one speaker only"):
        draw_trials(chords, np.flatnonzero(speakers == "s1"))
    with pytest.raises(InputError, match=r"none of 4 speakers has two utterances, of known and different chapters"):
        draw_trials(chords, np.flatnonzero(chapters == "c1"), other_chapters=True)
    with pytest.raises(InputError, match=r"none of 4 speakers has two utterances; give a larger split"):
        draw_trials(chords, np.unique(speakers, return_index=True)[1])
    with pytest.raises(InputError, match=r"most=0: must be at least 1"):
        draw_trials(chords, np.arange(9), most=0)


def test_features_that_name_the_speaker_never_err(chords: Corpus) -> None:
    rows, speaker = np.arange(len(chords)), chords.groups("speaker")[1]
    trials = draw_trials(chords, rows)
    scores = cosines(np.eye(4)[speaker] + 5, rows, rows[:20], trials)
    found = summarise(scores, trials.target, speaker[np.stack([trials.first, trials.second])])
    assert found.eer == (0, 0, 0)
    assert [found.min_dcf[prior] for prior in PRIORS] == [(0, 0, 0)] * 2


def test_cosines_are_of_what_is_left_without_the_mean(chords: Corpus) -> None:
    rows, train = np.array([2, 3, 5, 7, 8]), np.array([3, 7])
    vectors = np.random.default_rng(0).normal(size=(5, 3))
    vectors[0] = (vectors[1] + vectors[3]) / 2  # the mean itself
    trials = Trials(np.array([5, 2, 8]), np.array([8, 7, 5]), np.array([True, False, True]))
    left = vectors - vectors[[1, 3]].mean(0)
    cosine = left[2] @ left[4] / np.sqrt(left[2] @ left[2] * (left[4] @ left[4]))
    assert cosines(vectors, rows, train, trials) == pytest.approx([cosine, 0, cosine])


def test_a_list_is_read_as_it_was_written(chords: Corpus, tmp_path: Path) -> None:
    trials = draw_trials(chords, np.arange(len(chords)), most=20)
    write_trials(tmp_path / "trials.txt", trials, chords)
    lines = (tmp_path / "trials.txt").read_text().splitlines()
    assert lines[0] == f"1 {chords.ids[trials.first[0]]} {chords.ids[trials.second[0]]}"
    assert len(lines) == 40
    assert listed(read_trials(tmp_path / "trials.txt", chords)) == listed(trials)


def test_a_list_of_files_is_read_too(chords: Corpus, tmp_path: Path) -> None:
    """VoxCeleb's lists name files, whose folders the ids of a packed folder have with hyphens."""
    one, two, three = "s0-c0-00", "s0-c1-04", "s1-c0-13"
    file = tmp_path / "veri.txt"
    file.write_text(f"1 s0/c0/00.wav {two}.flac\n\n0 {one} {three}\n")
    found = read_trials(file, chords)
    ids = chords.ids
    assert [(ids[a], ids[b], target) for a, b, target in listed(found)] == [(one, two, True), (one, three, False)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1 s0-c0-00", r"line 2: '1 s0-c0-00': a line must be 1 or 0 and two ids"),
        ("2 s0-c0-00 s0-c1-04", r"line 2: '2 s0-c0-00 s0-c1-04': a line must be 1 or 0"),
        ("1 s0-c0-00 s9-c0-00", r"line 2: s9-c0-00 is not in the corpus, whose ids are like s0-c0-00"),
        ("1 s0-c0-00 s0-c0-00", r"line 2: s0-c0-00 with itself"),
        ("1 s0-c0-00 s1-c0-13", r"line 2: says one speaker; in the corpus they are by s0 and s1"),
        ("0 s0-c0-00 s0-c1-04", r"line 2: says two speakers; in the corpus they are by s0 and s0"),
        ("", r"1 trials, only one of the two kinds"),
    ],
)
def test_a_bad_line_is_named(chords: Corpus, tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "trials.txt"
    file.write_text(f"0 s0-c0-00 s1-c0-13\n{line}\n")
    with pytest.raises(InputError, match=rf"trials=.*trials.txt: {said}"):
        read_trials(file, chords)


def test_a_file_that_is_no_list_is_said(chords: Corpus, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; give a list in VoxCeleb's format"):
        read_trials(tmp_path / "none.txt", chords)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as UTF-8 text"):
        read_trials(tmp_path / "bytes", chords)
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match="0 trials, neither of the two kinds"):
        read_trials(tmp_path / "empty.txt", chords)
