"""The command that packs a folder: LibriSpeech's layout, any other, a table, labels and splits beside it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

from cpc.config import InputError
from cpc.corpus import Corpus
from data_prep import folder as command
from data_prep.console import run

SECOND = 16000


def write(path: Path, samples: int = SECOND, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).integers(-9000, 9000, samples).astype(np.int16), SECOND)


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(command.app, [str(argument) for argument in arguments])
    if isinstance(result.exception, InputError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def libri(tmp_path: Path) -> Path:
    audio = tmp_path / "audio"
    for seed, id in enumerate(("14-200-0000", "14-200-0001", "22-7-0000")):
        speaker, chapter, _ = id.split("-")
        write(audio / "train" / speaker / chapter / f"{id}.flac", seed=seed)
    (audio / "train/14/200/14-200.trans.txt").write_text("14-200-0000 HELLO THERE\n14-200-0001 BYE")
    lines = ["; a comment | F | x", "14   | F | train-clean-360  | 25.03 | A | name", "22   | M | x | 1 | B"]
    (tmp_path / "SPEAKERS.TXT").write_text("\n".join(lines))
    return audio


def labels(count: int) -> str:
    return " ".join(str(place % 3) for place in range(count))


def test_librispeech_layout_gives_all_metadata(libri: Path, tmp_path: Path) -> None:
    call(libri, tmp_path / "out")
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.ids == ["14-200-0000", "14-200-0001", "22-7-0000"]
    assert corpus.speakers == ["14", "14", "22"]
    assert corpus.chapters == ["200", "200", "7"]
    assert corpus.sexes == ["F", "F", "M"]
    assert corpus.subsets == ["train"] * 3
    assert corpus.texts == ["HELLO THERE", "BYE", ""]


def test_any_folder_works(tmp_path: Path) -> None:
    write(tmp_path / "audio/ann/one.wav")
    write(tmp_path / "audio/ann/day 2/one.FLAC")
    write(tmp_path / "audio/top.ogg")
    call(tmp_path / "audio", tmp_path / "out")
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.ids == ["ann-day 2-one", "ann-one", "top"]
    assert corpus.speakers == ["day 2", "ann", "audio"]


def test_clashing_names_are_one_error_that_names_both(tmp_path: Path) -> None:
    write(tmp_path / "audio/a.wav")
    write(tmp_path / "audio/a.flac")
    with pytest.raises(InputError, match=r"a\.flac and .*a\.wav"):
        call(tmp_path / "audio", tmp_path / "out")


@pytest.mark.parametrize("path", ["audio/x/1.wav", "x/1.wav", ""])
def test_a_table_overrules_the_paths(tmp_path: Path, path: str) -> None:
    write(tmp_path / "audio/x/1.wav")
    write(tmp_path / "audio/x/2.wav")
    id = "first" if path else "1"  # without a path the id must be the file's stem
    rows = ["id\tspeaker\tgender\ttext\tpath", f'{id}\tbob\tM\tsay "hi\t{path}', "ghost\tbob\tM\t\t"]
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/table.tsv").write_text("\n".join(rows))
    output = call(tmp_path / "audio", tmp_path / "out", "--table", tmp_path / "meta/table.tsv").output
    corpus = Corpus.open(tmp_path / "out")
    row = corpus.row(id)
    assert (corpus.speakers[row], corpus.sexes[row], corpus.texts[row]) == ("bob", "M", 'say "hi')
    assert "x-2" in corpus.ids
    assert "2 rows, 1 of them without a file; 1 files without a row" in output


def test_a_table_needs_ids_each_once(tmp_path: Path) -> None:
    write(tmp_path / "audio/1.wav")
    for content, message in (("name\n1\n", "column id"), ("id\n1\n1\n", "line 3")):
        (tmp_path / "table.tsv").write_text(content)
        with pytest.raises(InputError, match=message):
            call(tmp_path / "audio", tmp_path / "out", "--table", tmp_path / "table.tsv")


def test_splits_beside_the_audio_are_taken_and_said(libri: Path, tmp_path: Path) -> None:
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/train.txt").write_text("22-7-0000\n14-200-0000\nghost")
    (tmp_path / "splits/none_of_ours.txt").write_text("ghost")
    output = call(libri, tmp_path / "out").output
    corpus = Corpus.open(tmp_path / "out")
    assert "train: 2 ids, 1 unknown ids left out" in output
    assert "none_of_ours: 0 ids, 1 unknown ids left out; not taken" in output
    assert corpus.splits() == ["train"]
    assert corpus.rows("train").tolist() == [2, 0]
    call(libri, tmp_path / "refused", "--splits", "none")
    assert Corpus.open(tmp_path / "refused").splits() == []


def test_labels_beside_the_audio_are_taken_checked_and_said(libri: Path, tmp_path: Path) -> None:
    # One second: the paper's number of labels is 1 + floor((16000 − 400) / 160) = 98. With 93, the labels end at
    # 160·92 + 280 = 15000 samples, 62.5 ms early, which is refused; with 94 52.5 ms, refused; with 95, 42.5 ms.
    lines = [f"14-200-0000 {labels(98)}", f"14-200-0001 {labels(94)}", f"22-7-0000 {labels(95)}", "ghost 0 1"]
    (tmp_path / command.LABELS).write_text("\n".join(lines))
    (tmp_path / "phones.txt").write_text("SIL 0\nAA 1\nB 2\n")
    output = call(libri, tmp_path / "out").output
    alignment = Corpus.open(tmp_path / "out").labels()
    assert "2 of 3 utterances labelled, 1 unknown ids left out, 3 classes" in output
    assert "refused the labels of 1 utterances" in output
    assert "14-200-0001: labels 0.948 s, audio 1.000 s" in output
    assert alignment.inventory == ["SIL", "AA", "B"]
    assert alignment.intervals("14-200-0000").offsets[-1] == 1.0
    frames = alignment.frames("14-200-0000", (160 * np.arange(100) + 79.5) / SECOND)
    assert frames[1:-1].tolist() == [place % 3 for place in range(98)]
    call(libri, tmp_path / "refused", "--phones", "none")
    with pytest.raises(InputError, match="no such labels"):
        Corpus.open(tmp_path / "refused").labels()


def test_labels_longer_than_the_audio_end_with_it(libri: Path, tmp_path: Path) -> None:
    # 102 labels end at 160·101 + 280 = 16440 samples, 27.5 ms late: within the tolerance, cut at the audio's end.
    (tmp_path / command.LABELS).write_text(f"22-7-0000 {labels(102)}")
    call(libri, tmp_path / "out")
    row = Corpus.open(tmp_path / "out").labels().intervals("22-7-0000")
    assert row.offsets[-1] == 1.0
    assert np.all(row.onsets < row.offsets)


def test_the_first_centre_moves_the_labels(libri: Path, tmp_path: Path) -> None:
    (tmp_path / command.LABELS).write_text(f"22-7-0000 {labels(98)}")
    call(libri, tmp_path / "out", "--first-centre", 80)
    frames = Corpus.open(tmp_path / "out").labels().frames("22-7-0000", (160 * np.arange(98) + 79.5) / SECOND)
    assert frames.tolist() == [place % 3 for place in range(98)]


def test_running_again_changes_nothing_and_mends_a_kill_after_packing(libri: Path, tmp_path: Path) -> None:
    (tmp_path / command.LABELS).write_text(f"22-7-0000 {labels(98)}")
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/train.txt").write_text("22-7-0000")

    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    call(libri, tmp_path / "out")
    whole = content()
    (tmp_path / "out/labels/phones.json").unlink()
    (tmp_path / "out/splits/train.txt").unlink()
    assert "already holds this corpus" in call(libri, tmp_path / "out").output
    assert content() == whole


def test_skipped_files_are_counted_and_none_left_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "audio/good.wav")
    (tmp_path / "audio/bad.wav").write_bytes(b"bad")
    assert "skipped 1 files" in call(tmp_path / "audio", tmp_path / "out").output
    with pytest.raises(InputError, match=r"none of the 1 files.*skipped\.tsv"):
        call(tmp_path / "audio/bad.wav", tmp_path / "other")


def test_a_mistake_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["folder", str(tmp_path / "absent"), str(tmp_path / "out")])
    with pytest.raises(SystemExit) as exit:
        run(command.app)
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: audio=")
    assert error.count("\n") == 1


def test_python_m_works_without_a_terminal(libri: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "data_prep.folder", str(libri), str(tmp_path / "out"), "--workers", "2"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert "packed 3 utterances" in done.stdout
    assert done.stderr == ""
