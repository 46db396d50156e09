"""The command that packs a folder: LibriSpeech's layout, any other, a table, labels and splits beside it."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cpc.config import InputError
from cpc.data.corpus import Corpus
from data_prep import folder as command
from data_prep.console import run
from tests.packed import invoke

SECOND = 16000
call = partial(invoke, command.app)


def write(path: Path, samples: int = SECOND, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).integers(-9000, 9000, samples).astype(np.int16), SECOND)


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
    output = call(tmp_path / "audio", tmp_path / "out", "--table", tmp_path / "meta/table.tsv")
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
    output = call(libri, tmp_path / "out")
    corpus = Corpus.open(tmp_path / "out")
    assert "train: 2 ids, 1 unknown ids skipped" in output
    assert "none_of_ours: 0 ids, 1 unknown ids skipped; not taken" in output
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
    output = call(libri, tmp_path / "out")
    alignment = Corpus.open(tmp_path / "out").labels()
    assert "2 of 3 utterances labelled, 1 unknown ids skipped, 3 classes" in output
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
    assert "already holds this corpus" in call(libri, tmp_path / "out")
    assert content() == whole


def test_skipped_files_are_counted_and_none_left_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "audio/good.wav")
    (tmp_path / "audio/bad.wav").write_bytes(b"bad")
    assert "skipped 1 files" in call(tmp_path / "audio", tmp_path / "out")
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


def talk(seconds: float, rate: int = SECOND, seed: int = 0) -> np.ndarray:
    """Two seconds of loud noise and one of soft noise in turn, int16."""
    samples = round(seconds * rate)
    loud = np.arange(samples) % (3 * rate) < 2 * rate
    return (np.where(loud, 6000, 60) * np.random.default_rng(seed).normal(size=samples).clip(-4, 4)).astype(np.int16)


def test_long_recordings_are_cut_said_and_recognised(tmp_path: Path) -> None:
    write(tmp_path / "audio/ann/short.wav", 5 * SECOND)
    soundfile.write(tmp_path / "audio/ann/long.flac", talk(130), SECOND)
    (tmp_path / "audio/ann/ann.trans.txt").write_text("short HELLO\nlong A VERY LONG STORY\n")
    line = (tmp_path / "audio", "--out", tmp_path / "out")
    output = call(*line)
    assert "1 files give 3 utterances of up to 60 s" in output
    assert "1 transcripts belong to files that were cut and are skipped" in output
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.ids[-1] == "ann-short"
    assert corpus.texts == ["", "", "", "HELLO"]
    assert corpus.speakers == ["ann"] * 4
    assert corpus.chapters == ["ann-long"] * 3 + [""]
    assert corpus.samples.sum() == 135 * SECOND
    assert max(corpus.samples) <= 60 * SECOND
    again = call(*line)
    assert "already holds this corpus" in again
    assert "1 files give 3 utterances" in again


def test_splits_and_labels_speak_of_the_cut_ids(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio/a.flac", talk(9), SECOND)
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/train.txt").write_text("a-00000000-00000250\na\n")
    call(tmp_path / "audio", "--out", tmp_path / "out", "--longest", 5)
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.splits() == ["train"]
    assert corpus.rows("train").tolist() == [0]


def test_no_cut_keeps_every_file_whole(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio/a.flac", talk(70), SECOND)
    call(tmp_path / "audio", "--out", tmp_path / "out", "--no-cut")
    assert Corpus.open(tmp_path / "out").samples.tolist() == [70 * SECOND]
    assert not (tmp_path / "out/cuts.jsonl").exists()
    with pytest.raises(InputError, match="other files or settings"):
        call(tmp_path / "audio", "--out", tmp_path / "out")
    with pytest.raises(InputError, match="trim: leaves silence out by cutting"):
        call(tmp_path / "audio", "--out", tmp_path / "other", "--no-cut", "--trim", 1)


def test_trim_leaves_out_long_silences(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio/a.wav", np.concatenate([np.zeros(10 * SECOND), talk(2) / 32768]), SECOND)
    soundfile.write(tmp_path / "audio/empty.wav", np.zeros(3 * SECOND), SECOND)
    output = call(tmp_path / "audio", "--out", tmp_path / "out", "--trim", 1)
    assert "1 files hold nothing but silence and are skipped" in output
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.ids == ["a"]
    assert corpus.samples.tolist() == [2.5 * SECOND]


def test_speakers_by_parent_regex_and_table(tmp_path: Path) -> None:
    write(tmp_path / "audio/one/s1_a.wav")
    write(tmp_path / "audio/two/s2_b.wav")
    (tmp_path / "table.tsv").write_text("id\tspeaker\ns1_a\tann\ns2_b\tbob\n")

    def speakers(name: str, *options: object) -> list[str]:
        call(tmp_path / "audio", "--out", tmp_path / name, *options)
        return Corpus.open(tmp_path / name).speakers

    table = ("--table", tmp_path / "table.tsv")
    pattern = ("--speaker-regex", "(?P<speaker>s[0-9])_")
    assert speakers("default") == ["one", "two"]
    assert speakers("default_table", *table) == ["ann", "bob"]
    assert speakers("parent", "--speaker-from", "parent", *table) == ["one", "two"]
    assert speakers("table", "--speaker-from", "table", *table) == ["ann", "bob"]
    assert speakers("regex", "--speaker-from", "regex", *pattern, *table) == ["s1", "s2"]
    assert speakers("implied", *pattern) == ["s1", "s2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--speaker-from", "table"], "speaker-from=table: needs --table"),
        (["--speaker-from", "regex"], "speaker-from=regex: needs --speaker-regex"),
        (["--speaker-from", "parent", "--speaker-regex", "(?P<speaker>.)"], "speakers come from parent; drop it"),
        (["--speaker-regex", "(?P<speaker>z)"], "finds no speaker in 1 of 1 files, for example a.wav"),
        (["--longest", "1"], "longest=1: must be at least 2 seconds"),
        (["--trim", "0"], "trim=0: must be at least 0.2 seconds"),
        (["--shard", "3/2"], "shard=3/2: must be I/N with 1 <= I <= N"),
        (["--shard", "half"], "shard=half: must be I/N"),
        (["--shard", "1/2"], "shard=1/2: there are only 1 files"),
        (["--out", "elsewhere"], "out=elsewhere: .*out is given too; name one folder"),
    ],
)
def test_options_that_make_no_sense_say_so_and_leave_nothing(tmp_path: Path, options: list[str], message: str) -> None:
    write(tmp_path / "audio/a.wav")
    with pytest.raises(InputError, match=message):
        call(tmp_path / "audio", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()


def test_a_corpus_needs_a_place(tmp_path: Path) -> None:
    write(tmp_path / "audio/a.wav")
    with pytest.raises(InputError, match="out: not given"):
        call(tmp_path / "audio")


def test_shards_together_hold_what_one_corpus_holds(tmp_path: Path) -> None:
    for place in range(5):
        write(tmp_path / f"audio/{place}.wav", SECOND + place)
    soundfile.write(tmp_path / "audio/long.wav", talk(70), SECOND)
    call(tmp_path / "audio", "--out", tmp_path / "whole")
    ids: list[str] = []
    for part in (1, 2, 3):
        output = call(tmp_path / "audio", "--out", tmp_path / f"part{part}", "--shard", f"{part}/3")
        assert f"shard {part}/3: 2 of 6 files" in output
        ids += Corpus.open(tmp_path / f"part{part}").ids
    assert sorted(ids) == Corpus.open(tmp_path / "whole").ids


def test_what_the_parts_skip_is_named_as_the_whole_names_it(tmp_path: Path) -> None:
    for name in ("ann/1/a", "ann/1/b", "ann/2/c", "bob/d"):
        write(tmp_path / f"audio/{name}.wav")
        write(tmp_path / f"audio/{name}-bad.wav")
        (tmp_path / f"audio/{name}-bad.wav").write_bytes(b"")
    call(tmp_path / "audio", "--out", tmp_path / "whole")
    lines: list[str] = []
    for part in (1, 2, 3, 4):
        call(tmp_path / "audio", "--out", tmp_path / f"part{part}", "--shard", f"{part}/4")
        lines += (tmp_path / f"part{part}/skipped.tsv").read_text().splitlines()[1:]
    assert lines == (tmp_path / "whole/skipped.tsv").read_text().splitlines()[1:]
    assert lines[0] == "ann/1/a-bad.wav\tempty: 0 bytes"


def test_a_wav_that_was_cut_short_is_listed(tmp_path: Path) -> None:
    write(tmp_path / "audio/good.wav")
    write(tmp_path / "audio/short.wav")
    (tmp_path / "audio/short.wav").write_bytes((tmp_path / "audio/short.wav").read_bytes()[:20044])
    assert "skipped 1 files" in call(tmp_path / "audio", "--out", tmp_path / "out")
    line = (tmp_path / "out/skipped.tsv").read_text().splitlines()[1]
    assert line == "short.wav\tcut short or damaged: only 10000 of 16000 samples can be decoded"


def write_wrong_lengths(folder: Path) -> None:
    """A good file, one from a pipe with 0 for its length, and two that lack 50 ms, one of them long."""
    for name, samples in (("good", SECOND), ("piped", SECOND), ("lacks", SECOND), ("long", 70 * SECOND)):
        write(folder / f"{name}.wav", samples)
    content = bytearray((folder / "piped.wav").read_bytes())
    content[40:44] = bytes(4)
    (folder / "piped.wav").write_bytes(content)
    for name in ("lacks", "long"):
        (folder / f"{name}.wav").write_bytes((folder / f"{name}.wav").read_bytes()[:-1600])


def test_a_wrong_length_in_a_header_is_noted(tmp_path: Path) -> None:
    write_wrong_lengths(tmp_path / "audio")
    for _ in range(2):  # the second time all is there
        output = call(tmp_path / "audio", "--out", tmp_path / "out")
        assert "skipped 0 files" in output
        assert f"3 files have a wrong length in their header and were taken: see {tmp_path}/out/notes.tsv" in output
    assert (tmp_path / "out/notes.tsv").read_text().splitlines() == [
        "path\tnote",
        "lacks.wav\tholds 800 samples less than the 16000 of its header: taken as it is",
        "long.wav\tholds 800 samples less than the 1120000 of its header: taken as it is",
        "piped.wav\tits header leaves the length open: taken to the end of the file, 16000 samples",
    ]
    corpus = Corpus.open(tmp_path / "out")
    seconds = dict(zip(corpus.ids, (corpus.samples / SECOND).tolist(), strict=True))
    assert (seconds["good"], seconds["piped"], seconds["lacks"]) == (1.0, 1.0, 0.95)
    assert sum(length for id, length in seconds.items() if id.startswith("long-")) == 69.95


def test_strict_skips_a_file_that_lacks_a_little(tmp_path: Path) -> None:
    write_wrong_lengths(tmp_path / "audio")
    output = call(tmp_path / "audio", "--out", tmp_path / "out", "--strict")
    assert "skipped 2 files" in output
    assert "1 files have a wrong length" in output  # an open one says nothing that could be wrong
    skipped = dict(line.split("\t") for line in (tmp_path / "out/skipped.tsv").read_text().splitlines())
    assert skipped["lacks.wav"] == "cut short or damaged: only 15200 of 16000 samples can be decoded"
    assert skipped["long.wav"].endswith("to 1120000: cut short or damaged: only 0 of 800 samples can be decoded")
    with pytest.raises(InputError, match="cut by other rules"):
        call(tmp_path / "audio", "--out", tmp_path / "out")


def test_one_folder_of_everything_that_goes_wrong_loses_nothing_else(tmp_path: Path) -> None:
    audio = tmp_path / "audio"
    good = {
        "größe Ñ 日本/zwei  Worte .wav": ("größe Ñ 日本-zwei  Worte", 16000, "PCM_16", 1),
        "x.wav/inside.wav": ("x.wav-inside", 16000, "PCM_U8", 1),
        "deep.flac": ("deep", 16000, "PCM_24", 1),
        "float.wav": ("float", 16000, "FLOAT", 1),
        "studio.wav": ("studio", 96000, "PCM_24", 2),
        "phone.au": ("phone", 8000, "ULAW", 1),
    }
    for name, (_, rate, subtype, channels) in good.items():
        (audio / name).parent.mkdir(parents=True, exist_ok=True)
        wave = talk(2, rate)[:, None].repeat(channels, 1) / 32768
        soundfile.write(audio / name, wave, rate, subtype=subtype)
    (audio / "zero.wav").touch()
    (audio / "text.mp3").write_text("no audio")
    write(audio / "cut.flac", 5 * SECOND)
    (audio / "cut.flac").write_bytes((audio / "cut.flac").read_bytes()[:60000])
    soundfile.write(audio / "nan.wav", np.array([0, np.nan], np.float32), SECOND, subtype="FLOAT")
    (audio / "loop").symlink_to(audio)
    (audio / "self.wav").symlink_to("self.wav")
    output = call(audio, "--out", tmp_path / "out")
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.ids == sorted(id for id, *_ in good.values())
    assert corpus.samples.tolist() == [2 * SECOND] * len(good)
    reference = talk(2).astype(np.float64)
    for id in ("deep", "float"):
        assert np.array_equal(corpus.waveform(corpus.row(id)), reference)
    assert np.abs(corpus.waveform(corpus.row("x.wav-inside")) - reference).max() <= 257  # a step of 8 bits
    lines = (tmp_path / "out/skipped.tsv").read_text().splitlines()[1:]
    reasons = dict(line.split("\t") for line in lines)
    assert "skipped 5 files" in output
    assert reasons["zero.wav"] == "empty: 0 bytes"
    assert reasons["text.mp3"].startswith("cannot be decoded")
    assert "of 80000 samples can be decoded" in reasons["cut.flac"]
    assert reasons["nan.wav"] == "1 samples are NaN or infinite"
    assert reasons["self.wav"] == "a link that leads to no file"
