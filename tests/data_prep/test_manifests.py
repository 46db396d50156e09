"""Kaldi data folders, Lhotse manifests and Common Voice become corpora with speakers, texts and splits."""

import gzip
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cpc.data.corpus import Corpus
from data_prep import manifests
from tests.packed import invoke, refusal

RATE = 8000  # not the corpus's: segments count samples of the file
call = partial(invoke, manifests.app)


@pytest.fixture
def wave(tmp_path: Path) -> Path:
    """Four seconds at 8 kHz, each second at a level of its own."""
    audio = np.repeat([0.1, 0.2, 0.3, 0.4], RATE).astype(np.float32)
    audio *= np.tile([1, -1], 2 * RATE)
    soundfile.write(tmp_path / "rec.wav", audio, RATE)
    soundfile.write(tmp_path / "other.wav", audio[:RATE], RATE)
    return tmp_path / "rec.wav"


def kaldi(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    return folder


def test_a_kaldi_folder_with_segments(wave: Path, tmp_path: Path) -> None:
    folder = kaldi(
        tmp_path / "train",
        wav_scp=f"rec {wave}\nother ../other.wav\n",
        segments="u1 rec 0 1\nu2 rec 1.5 3\nu3 other 0 -1\n",
        utt2spk="u1 ann\nu2 ben\nu3 ann\n",
        text="u1 HELLO THERE\nu2 YES\n",
        spk2gender="ann f\nben m\n",
    )
    output = call("kaldi", folder, "--out", tmp_path / "out")
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.ids == ["u1", "u2", "u3"]
    assert corpus.speakers == ["ann", "ben", "ann"]
    assert corpus.sexes == ["F", "M", "F"]
    assert corpus.texts == ["HELLO THERE", "YES", ""]
    assert corpus.samples.tolist() == [16000, 24000, 16000]
    assert corpus.rows("train").tolist() == [0, 1, 2]
    assert "split train: 3 of 3 utterances" in output


def test_kaldi_folders_without_segments_are_splits(wave: Path, tmp_path: Path) -> None:
    one = kaldi(tmp_path / "train", wav_scp="a rec.wav\n", utt2spk="a s1\n")
    other = kaldi(tmp_path / "test", wav_scp="b other.wav\nc gone.wav\n", utt2spk="b s2\n")
    output = call("kaldi", one, other, "--out", tmp_path / "out", "--root", tmp_path)
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.ids == ["a", "b"]
    assert [corpus.rows(split).tolist() for split in ("train", "test")] == [[0], [1]]
    assert "split test: 1 of 2 utterances" in output
    assert "gone.wav" in (tmp_path / "out" / "skipped.tsv").read_text()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"wav_scp": "a touch exploded; cat x.wav |\n"}, "is a command, and none is run"),
        ({"wav_scp": "a raw.ark:17\n"}, "is in an archive"),
        ({"text": "a b\n"}, "wav.scp: no such file"),
        ({"wav_scp": "a\n"}, "line 1: holds one word only"),
        ({"wav_scp": "a rec.wav\n", "segments": "u b 0 1\n"}, "b is not in wav.scp"),
        ({"wav_scp": "a rec.wav\n", "segments": "u a 0\n"}, "a line is UTT REC START END"),
        ({"wav_scp": "a rec.wav\n", "segments": "u a 0 x\n"}, "'x' is no time in seconds"),
        ({"wav_scp": "a rec.wav\n", "segments": "u a 2 1\n"}, "from 2 to 1 s: must be in order"),
    ],
)
def test_bad_kaldi_folders_are_one_line(wave: Path, tmp_path: Path, files: dict[str, str], said: str) -> None:
    assert said in refusal(call, "kaldi", kaldi(tmp_path / "bad", **files), "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not Path("exploded").exists()


def lhotse(folder: Path, wave: Path, zipped: bool, **changes: object) -> tuple[Path, Path]:
    sources = [{"type": "file", "channels": [0], "source": str(wave)}]
    recording = {"id": "rec", "sources": sources, "sampling_rate": RATE, "num_samples": 4 * RATE, "duration": 4.0}
    supervision = {"id": "s-1", "recording_id": "rec", "start": 0.5, "duration": 1.25, "channel": 0, "text": "Yes.",
                   "speaker": "ann", "gender": "female"}  # fmt: skip
    recording |= {key: value for key, value in changes.items() if key in recording}
    supervision |= {key: value for key, value in changes.items() if key in supervision and key not in recording}
    paths = []
    for name, rows in (
        ("recordings", [recording]),
        ("supervisions", [supervision, {**supervision, "id": "s-2", "start": 2}]),
    ):
        paths.append(folder / f"{name}.jsonl{'.gz' if zipped else ''}")
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        paths[-1].write_bytes(gzip.compress(text) if zipped else text)
    return paths[0], paths[1]


@pytest.mark.parametrize("zipped", [False, True])
def test_lhotse_manifests(wave: Path, tmp_path: Path, zipped: bool) -> None:
    call("lhotse", *lhotse(tmp_path, wave, zipped), "--out", tmp_path / "out")
    corpus = Corpus.open(tmp_path / "out")
    assert corpus.ids == ["s-1", "s-2"]
    assert (corpus.speakers, corpus.sexes, corpus.chapters) == (["ann"] * 2, ["F"] * 2, ["rec"] * 2)
    assert corpus.texts == ["Yes."] * 2
    assert corpus.samples.tolist() == [20000, 20000]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sources": [{"type": "command", "channels": [0], "source": "sox |"}]}, "its sources: command"),
        ({"sources": [{"type": "file", "channels": [0, 1], "source": "x.wav"}]}, "one file of one channel"),
        ({"recording_id": "nope"}, "its recording nope is not in"),
        ({"start": None}, "None is no time in seconds"),
    ],
)
def test_bad_lhotse_manifests_are_one_line(wave: Path, tmp_path: Path, changes: dict[str, object], said: str) -> None:
    assert said in refusal(call, "lhotse", *lhotse(tmp_path, wave, False, **changes), "--out", tmp_path / "out")
    (tmp_path / "broken.jsonl").write_text("{")
    assert "cannot be read" in refusal(
        call, "lhotse", tmp_path / "broken.jsonl", tmp_path / "x", "--out", tmp_path / "out"
    )


def test_common_voice(wave: Path, tmp_path: Path) -> None:
    folder = tmp_path / "en"
    (folder / "clips").mkdir(parents=True)
    for name in ("c1", "c2", "c3"):
        soundfile.write(folder / "clips" / f"{name}.mp3", np.zeros(RATE, np.float32) + 0.1, RATE, format="MP3")
    head = "client_id\tpath\tsentence\tup_votes\tage\tgender\n"
    (folder / "train.tsv").write_text(
        head + 'x1\tc1.mp3\tA "quoted" word.\t2\t\tfemale_feminine\nx2\tc2.mp3\tB.\t2\t\tmale\n'
    )
    (folder / "test.tsv").write_text(head + "x3\tc3.mp3\tC.\t2\t\t\n")
    output = call("commonvoice", folder, "--out", tmp_path / "out", "--tsv", "train", "--tsv", "test")
    corpus = Corpus.open(tmp_path / "out")
    assert (corpus.ids, corpus.speakers, corpus.sexes) == (["c1", "c2", "c3"], ["x1", "x2", "x3"], ["F", "M", ""])
    assert corpus.texts[0] == 'A "quoted" word.'
    assert corpus.rows("train").tolist() == [0, 1]
    assert "split test: 1 of 1 utterances" in output
    assert "dev.tsv is not there (lists: test, train)" in refusal(call, "commonvoice", folder, "--out", tmp_path / "o")
    (folder / "dev.tsv").write_text("path\tsentence\n")
    assert "names no column client_id" in refusal(call, "commonvoice", folder, "--out", tmp_path / "o", "--tsv", "dev")
