"""The command for splits: drawn, taken in, compared; nothing is replaced unasked."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from cpc.config import InputError
from cpc.data.alignment import AlignedRow, write_alignment
from cpc.data.corpus import Corpus
from cpc.data.shards import read_ids
from cpc.data.splits import overlap, write_split
from cpc.evaluation.leakage import check
from data_prep import splits as command
from data_prep.splits import take_splits
from tests.packed import content, invoke, lines, make_corpus, refusal

# Speakers a and b with two chapters of four utterances each, c with one chapter, d with one utterance.
IDS = [f"{speaker}-{chapter}-{n}" for speaker in "ab" for chapter in (1, 2) for n in range(4)]
IDS += ["c-1-0", "c-1-1", "c-1-2", "d-1-0"]
call = partial(invoke, command.app)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return make_corpus(tmp_path, dict.fromkeys(IDS, 0.1))


def sides(corpus: Corpus, name: str = "") -> tuple[np.ndarray, np.ndarray]:
    return corpus.rows(f"{name}train"), corpus.rows(f"{name}test")


def speakers(corpus: Corpus, rows: np.ndarray) -> set[str]:
    return {corpus.speakers[row] for row in rows}


def test_by_utterance_all_speakers_are_on_both_sides(corpus: Corpus) -> None:
    output = call(corpus.path, "--by", "utterance", "--share", 0.25, "--name", "paper")
    train, test = sides(corpus, "paper_")
    assert speakers(corpus, train) == speakers(corpus, test) == {"a", "b", "c"}
    assert (len(train), len(test)) == (14, 5)  # of 8, 8 and 3 utterances round(n / 4), at least 1: 2, 2, 1
    assert "skipped on both sides: 1 utterances whose speakers (1) have only one utterance" in output
    assert "paper_train and paper_test share 0 of 5 utterances, 3 of 3 speakers" in output


def test_by_chapter_a_speaker_probe_is_possible_and_honest(corpus: Corpus) -> None:
    output = call(corpus.path, "--by", "chapter", "--name", "spk")
    train, test = sides(corpus, "spk_")
    shared = overlap(corpus, train, test)
    assert (shared.utterances, shared.speakers, shared.chapters) == (0, 2, 0)
    assert "skipped on both sides: 4 utterances whose speakers (2) have only one chapter" in output
    (note,) = check("speaker_frame", corpus, train, test)  # not refused, and no session is shared
    assert "0 of 2 test chapters" in note


def test_by_speaker_a_phone_probe_meets_new_speakers(corpus: Corpus) -> None:
    call(corpus.path, "--by", "speaker", "--share", 0.5, "--name", "phone")
    train, test = sides(corpus, "phone_")
    assert len(speakers(corpus, train)) == len(speakers(corpus, test)) == 2
    assert not speakers(corpus, train) & speakers(corpus, test)
    assert sorted([*train, *test]) == list(range(len(IDS)))


def test_the_same_seed_gives_the_same_bytes(corpus: Corpus) -> None:
    def drawn(seed: int) -> bytes:
        call(corpus.path, "--by", "utterance", "--seed", seed, "--overwrite")
        return (corpus.path / "splits" / "test.txt").read_bytes()

    assert drawn(3) == drawn(3) != drawn(4)


def test_a_split_is_drawn_within_another_and_among_what_is_labelled(corpus: Corpus) -> None:
    write_split(corpus.path, "ab", [id for id in IDS if id[0] in "ab"])
    row = AlignedRow("", np.array([0.0]), np.array([0.1]), np.array([0]))
    labelled = [id for id in IDS if id.endswith(("-0", "-1"))]
    write_alignment(corpus.path, "phones", [row._replace(id=id) for id in labelled], ["x"], "here")
    output = call(corpus.path, "--by", "speaker", "--share", 0.5, "--within", "ab", "--labelled", "phones")
    train, test = sides(corpus)
    assert {corpus.ids[place] for place in (*train, *test)} == {id for id in labelled if id[0] in "ab"}
    assert "8 of 16 utterances have the labels phones" in output
    with pytest.raises(InputError, match="labels=words"):
        call(corpus.path, "--by", "speaker", "--labelled", "words")
    write_split(corpus.path, "rest", [id for id in IDS if id.endswith("-2")])
    with pytest.raises(InputError, match="--labelled phones: none of the 5 utterances has such labels"):
        call(corpus.path, "--by", "speaker", "--within", "rest", "--labelled", "phones")


def test_the_papers_lists_are_taken_in(corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "train_split.txt").write_text("b-1-0\na-1-0\r\nghost-1\nghost-2\na-1-0")  # no last newline, one twice
    (tmp_path / "test_split.txt").write_text("a-1-1")
    output = call(corpus.path, "--cpc", tmp_path / "train_split.txt", tmp_path / "test_split.txt")
    assert read_ids(corpus.path / "splits/train.txt") == ["b-1-0", "a-1-0"]  # in the order of the file
    assert read_ids(corpus.path / "splits/test.txt") == ["a-1-1"]
    assert "train_split.txt: 2 ids, 2 unknown ids skipped (ghost-1, ghost-2)" in output
    assert "test_split.txt: 1 ids\n" in output
    assert "train and test share 0 of 1 utterances, 1 of 1 speakers, 1 of 1 chapters of test" in output
    call(corpus.path, "--cpc", tmp_path / "train_split.txt", tmp_path / "test_split.txt", "--name", "paper")
    assert corpus.splits() == ["paper_test", "paper_train", "test", "train"]


def test_overlap_of_two_of_any_two_and_the_list(corpus: Corpus) -> None:
    write_split(corpus.path, "one", ["a-1-0", "a-2-0", "b-1-0"])
    write_split(corpus.path, "two", ["a-1-0", "a-1-1"])
    write_split(corpus.path, "far", ["c-1-0"])
    write_split(corpus.path, "ghosts", ["nobody"])
    assert "one and two share 1 of 2 utterances, 1 of 1 speakers, 1 of 1 chapters of two" in call(
        corpus.path, "--overlap", "one", "two"
    )
    table = call(corpus.path, "--overlap")
    (row,) = [line for line in table.splitlines() if "one" in line and "two" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["one", "two", "1 of 2", "1 of 1", "1 of 1"]
    assert "2 of 3 pairs share nothing" in table
    listed = call(corpus.path)
    assert "one: 3 utterances, 0.00 h, 2 speakers, 3 chapters" in listed
    assert "split=ghosts: 1 of 1 ids are not in" in listed  # said, and the others are listed all the same


def test_a_corpus_without_splits_says_how_to_get_some(corpus: Corpus) -> None:
    assert "has no splits yet; draw some with --by" in call(corpus.path)


def test_other_ids_are_never_replaced_unasked(corpus: Corpus) -> None:
    call(corpus.path, "--by", "speaker")
    before = content(corpus.path)
    call(corpus.path, "--by", "speaker")  # the same again is no replacement
    assert content(corpus.path) == before
    write_split(corpus.path, "train", ["a-1-0"])
    before = content(corpus.path)
    message = refusal(call, corpus.path, "--by", "utterance")
    assert "has a split train of other ids; give another --name, or --overwrite" in message
    assert content(corpus.path) == before
    call(corpus.path, "--by", "utterance", "--overwrite")
    assert content(corpus.path) != before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--by", "speaker", "--overlap"], "give one of --by and --overlap"),
        (["one"], "SPLIT=one: belongs to --overlap"),
        (["--overlap", "one"], "name two splits"),
        (["--overlap", "one", "one"], "name two splits"),
        (["--overlap", "one", "twoo"], "split=twoo: no such split"),
        (["--within", "one"], "--within and --labelled: belong to --by"),
        (["--by", "speaker", "--share", "1"], "share=1.0: must lie between 0 and 1"),
        (["--by", "chapter", "--share", "0"], "share=0.0: must lie between 0 and 1"),
        (["--by", "speaker", "--within", "one"], "has only 1 speaker"),
        (["--by", "chapter", "--within", "one"], "no speaker of"),
        (["--by", "speaker", "--name", "a/b"], "--name a/b: must be letters"),
        (["--by", "speaker", "--name", "../x"], "--name ../x: must be letters"),
        (["--cpc", "absent", "ids.txt"], "split=absent: no such file"),
        (["--cpc", "ids.txt", "ghosts.txt"], "ghosts.txt: none of its 1 ids is in"),
        (["--cpc", "ids.txt", "empty.txt"], "empty.txt: none of its 0 ids is in"),
        (["--cpc", "ids.txt", "bytes.txt"], "bytes.txt: is no list of ids"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(
    corpus: Corpus, tmp_path: Path, arguments: list[str], message: str
) -> None:
    write_split(corpus.path, "one", ["a-1-0", "a-1-1"])
    (tmp_path / "ids.txt").write_text("a-1-0")
    (tmp_path / "ghosts.txt").write_text("nobody")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00\x01")
    before = content(corpus.path)
    assert message in refusal(call, corpus.path, *arguments)
    assert content(corpus.path) == before


def test_a_folder_of_lists_is_taken_in(corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/mine.txt").write_text(lines(["a-1-1", "a-1-0", "ghost"]))
    (tmp_path / "lists/theirs.txt").write_text("ghost")
    take_splits(corpus, tmp_path / "lists")
    assert read_ids(corpus.path / "splits/mine.txt") == ["a-1-1", "a-1-0"]
    assert corpus.splits() == ["mine"]
    output = capsys.readouterr().out
    assert "mine: 2 ids, 1 unknown ids skipped" in output
    assert "theirs: 0 ids, 1 unknown ids skipped; not taken" in output
