"""Label files find their utterances by name, whatever the folders above them are called."""

import hashlib
from functools import partial
from pathlib import Path

import pytest

import data_prep.label_files as module
from cpc.config import InputError
from data_prep.label_files import checksum, find_labels, match_files, read_files


def touch(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return sorted(folder / name for name in names)


def test_files_are_found_below_in_any_case(tmp_path: Path) -> None:
    files = touch(tmp_path, "a.TextGrid", "x/y/b.textgrid", "x/C.TEXTGRID")
    touch(tmp_path, "a.txt", "._a.TextGrid", ".hidden/d.TextGrid")
    assert find_labels(tmp_path, ".TextGrid") == files


def test_nothing_to_find_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent: no such folder"):
        find_labels(tmp_path / "absent", ".phn")
    with pytest.raises(InputError, match=r"holds no \.phn file"):
        find_labels(tmp_path, ".phn")
    with pytest.raises(InputError, match="no such folder"):
        find_labels(touch(tmp_path, "a.phn")[0], ".phn")


@pytest.mark.parametrize(
    ("file", "id"),
    [
        ("1272/1272-1-0000.TextGrid", "1272-1-0000"),  # LibriSpeech, as the aligner writes it
        ("a/b/1272-1-0000.TextGrid", "1272-1-0000"),
        ("TRAIN/DR1/FCJF0/SA1.PHN", "TRAIN-DR1-FCJF0-SA1"),  # TIMIT, packed from its root
        ("train/dr1/fcjf0/sa1.phn", "TRAIN-DR1-FCJF0-SA1"),
        ("TRAIN/DR1/FCJF0/SA1.PHN", "FCJF0-SA1"),  # packed from below
        ("TRAIN/DR1/FCJF0/SA1.PHN", "TRAIN-DR1-FCJF0-SA1.WAV"),  # packed from SA1.WAV.wav
        ("ann/day 2/one.TextGrid", "ann-day 2-one"),
    ],
)
def test_the_end_of_a_path_names_its_utterance(tmp_path: Path, file: str, id: str) -> None:
    (path,) = touch(tmp_path, file)
    assert match_files([path], ["other", id]) == ([(id, path)], [])


def test_the_longest_end_wins_and_stems_need_not_be_unique(tmp_path: Path) -> None:
    files = touch(tmp_path, "TRAIN/FCJF0/SA1.PHN", "TRAIN/MDPK0/SA1.PHN", "TEST/MDPK1/SA2.PHN")
    matched = match_files(files, ["FCJF0-SA1", "TRAIN-FCJF0-SA1", "MDPK0-SA1", "SX9"])
    assert [id for id, _ in matched.pairs] == ["MDPK0-SA1", "TRAIN-FCJF0-SA1"]
    assert [path.stem for path in matched.unknown] == ["SA2"]


def test_two_files_for_one_utterance_are_refused_with_both_names(tmp_path: Path) -> None:
    files = touch(tmp_path, "x/SA1.PHN", "y/SA1.PHN")
    with pytest.raises(InputError, match=r"id=SA1: two files.*x/SA1\.PHN and .*y/SA1\.PHN"):
        match_files(files, ["SA1"])


def read(path: Path, stop_at: str = "") -> str:
    if path.stem == stop_at:
        raise InputError(f"{path}: broken\nin the middle")
    return path.read_text()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_broken_file_is_a_reason_not_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.setattr(module, "FEW", 2)
    files = touch(tmp_path, "a.phn", "b.phn", "c.phn")
    (tmp_path / "d.phn").mkdir()
    pairs = [(path.stem, path) for path in [*files, tmp_path / "d.phn"]]
    found = list(read_files(pairs, partial(read, stop_at="b"), workers))
    assert [(one.id, one.value, one.reason) for one in found] == [
        ("a", "a.phn", ""),
        ("b", None, "broken in the middle"),
        ("c", "c.phn", ""),
        ("d", None, "cannot be read (Is a directory)"),
    ]
    assert found[0].sha256 == hashlib.sha256(b"a.phn").hexdigest()


def test_the_checksum_is_of_names_and_contents_not_of_their_order() -> None:
    assert checksum([("a", "1"), ("b", "2")]) == checksum([("b", "2"), ("a", "1")])
    assert len({checksum(pairs) for pairs in ([("a", "1")], [("a", "2")], [("b", "1")], [])}) == 4
