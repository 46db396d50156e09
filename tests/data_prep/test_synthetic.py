"""The embedded corpus: its splits, labels and audio, its determinism, and how it takes mistakes and kills."""

import hashlib
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.random import default_rng

pytest.importorskip("espeakng_loader", reason="espeakng-loader, the synthesiser, is not installed")

from cpc.audio.decode import decode
from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.data.pack import pack
from cpc.data.splits import overlap
from data_prep import speakers as sentences
from data_prep import synthetic
from data_prep.espeak import INVENTORY
from data_prep.speakers import chapters, make_speakers, utterance
from data_prep.synthetic import make

SMALL = {"speakers": 6, "hours": 0.02}
COMMAND = [sys.executable, "-m", "data_prep.synthetic"]


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("synthetic") / "corpus", **SMALL)


@pytest.fixture(scope="module")
def corpus(made: Path) -> Corpus:
    return Corpus.open(made)


def test_it_holds_what_was_asked_for(corpus: Corpus) -> None:
    assert len(set(corpus.speakers)) == SMALL["speakers"]
    assert len(set(corpus.chapters)) == SMALL["speakers"] * synthetic.CHAPTERS
    assert corpus.samples.sum() / 16000 >= SMALL["hours"] * 3600
    assert set(corpus.sexes) == {"F", "M"}
    assert corpus.sample_rate == 16000


def test_utterances_last_as_in_read_speech() -> None:
    chapter = chapters(make_speakers(6, 0)[0], 0)[0]
    lengths = [len(utterance(chapter, f"x-{number}", 0).samples) / 16000 for number in range(40)]
    assert min(lengths) > 1.28 and max(lengths) < 14
    assert np.mean([2 <= length <= 12 for length in lengths]) > 0.95


def test_the_splits_keep_apart_what_they_must(corpus: Corpus) -> None:
    rows = {name: corpus.rows(name) for name in corpus.splits()}
    assert set(rows) == {"pretrain", "valid", "phone_train", "phone_test", "speaker_train", "speaker_test"}
    assert all(len(part) for part in rows.values())
    for one, other in (("pretrain", "phone_test"), ("pretrain", "valid"), ("valid", "phone_test")):
        assert overlap(corpus, rows[one], rows[other]).speakers == 0
    assert overlap(corpus, rows["phone_train"], rows["phone_test"]).speakers == 0
    shared = overlap(corpus, rows["speaker_train"], rows["speaker_test"])
    assert shared.utterances == shared.chapters == 0
    assert {corpus.speakers[row] for row in rows["speaker_train"]} == {
        corpus.speakers[row] for row in rows["speaker_test"]
    }
    assert set(rows["speaker_train"]) | set(rows["speaker_test"]) <= set(rows["pretrain"])


def test_every_sample_has_a_label_and_silence_is_the_quiet_one(corpus: Corpus) -> None:
    labels = corpus.labels("phones")
    assert labels.inventory == INVENTORY
    quiet, loud = [], []
    for row, id in enumerate(corpus.ids):
        wave = corpus.waveform(row).astype(float)
        frames = len(wave) // 160
        found = labels.frames(id, (np.arange(frames) + 0.5) * 0.01)
        assert found.min() >= 0
        assert labels.intervals(id).offsets[-1] == pytest.approx(len(wave) / 16000, abs=1e-9)
        power = np.square(wave[: frames * 160]).reshape(frames, 160).mean(axis=1)
        quiet.append(np.median(power[found == 0]) / power.max())
        loud.append(np.median(power[np.isin(found, [INVENTORY.index(v) for v in ("AE", "IY", "OW")])]) / power.max())
    assert max(quiet) < 1e-3 < np.nanmedian(loud)


def test_there_is_no_digital_silence_and_no_clipping(corpus: Corpus) -> None:
    for row in range(len(corpus)):
        wave = corpus.waveform(row).astype(int)
        assert np.abs(wave).max() < 32767
        assert np.mean(wave[:1600] == 0) < 0.5  # the lead-in holds noise


def test_the_layout_is_that_of_librispeech(made: Path, corpus: Corpus) -> None:
    first = corpus.ids[0]
    speaker, chapter, number = first.split("-")
    folder = made / "audio" / corpus.subsets[0] / speaker / chapter
    assert re.fullmatch(r"\d{4}", number)
    words = dict(line.split(" ", 1) for line in (folder / f"{speaker}-{chapter}.trans.txt").read_text().splitlines())
    assert words[first] == corpus.texts[0] and re.fullmatch(r"[A-Z ]+", words[first])
    assert np.array_equal(decode(folder / f"{first}.flac") * 32768, corpus.waveform(0))
    people = [line for line in (made / "SPEAKERS.TXT").read_text().splitlines() if not line.startswith(";")]
    fields = [[field.strip() for field in line.split("|", 4)] for line in people]
    assert [field[0] for field in fields] == sorted(set(corpus.speakers))
    assert sum(float(field[3]) for field in fields) == pytest.approx(corpus.samples.sum() / 16000 / 60, abs=0.1)
    sessions = [line for line in (made / "CHAPTERS.TXT").read_text().splitlines() if not line.startswith(";")]
    assert {line.split("|")[0].strip() for line in sessions} == set(corpus.chapters)


def test_the_bytes_depend_on_the_seed_alone(made: Path, tmp_path: Path) -> None:
    again = make(tmp_path / "again", **SMALL, workers=2)
    assert digests(again) == digests(made)
    other = make(tmp_path / "other", speakers=4, hours=0.001, seed=1)
    assert not set(digests(other / "audio").values()) & set(digests(made / "audio").values())


def test_an_utterance_is_a_function_of_its_id_not_of_its_turn(made: Path, corpus: Corpus) -> None:
    row = next(row for row, id in enumerate(corpus.ids) if id.endswith("-0001"))
    speaker = next(speaker for speaker in make_speakers(6, 0) if speaker.id == corpus.speakers[row])
    chapter = next(chapter for chapter in chapters(speaker, 0) if chapter.id == corpus.chapters[row])
    assert np.array_equal(utterance(chapter, corpus.ids[row], 0).samples, corpus.waveform(row))


def test_what_a_kill_left_behind_is_completed_to_the_same_bytes(made: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(made, tmp_path / "broken")
    for gone in ("corpus.json", "manifest.parquet", "skipped.tsv", "SPEAKERS.TXT"):
        (broken / gone).unlink()
    shutil.rmtree(broken / "labels")
    mark = broken / "synthetic.json"
    mark.write_text(mark.read_text().replace('"corpus"', '""'))
    chapter = sorted((broken / "audio").glob("*/*/*"))[3]
    chapter.rename(chapter.with_name(f".{chapter.name}.tmp"))  # half a chapter, not yet renamed
    assert digests(make(broken, **SMALL)) == digests(made)


@pytest.mark.slow
def test_kill_nine_then_the_same_command_gives_the_same_bytes(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = [*COMMAND, str(out), "--speakers", "6", "--hours", "0.02", "--workers", "2"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(out.glob("audio/*/*/1*"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (out / "corpus.json").exists()
    subprocess.run(command, check=True, capture_output=True)
    assert digests(out) == digests(made)


def test_a_finished_corpus_is_reused(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    assert "already holds this corpus" in synthetic.build(made, **SMALL)
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


def test_audio_only_stops_before_packing_and_can_be_packed_later(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "audio"
    synthetic.build(out, **SMALL, audio_only=True, progress=False)
    assert not (out / "corpus.json").exists() and not (out / "labels").exists()
    assert digests(out / "audio") == digests(made / "audio")
    assert digests(make(out, **SMALL)) == digests(made)


def test_other_settings_or_other_files_are_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"other settings \(speakers 6\); remove that folder"):
        make(made, speakers=7, hours=0.02)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        make(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--speakers", "3"], "speakers=3: the splits need at least 4"),
        (["--hours", "0"], "hours=0.0: must be more than 0"),
        (["--hours", "nan"], "hours=nan: must be more than 0"),
        (["--workers", "0"], "workers=0: must be at least 1"),
    ],
)
def test_a_mistake_is_one_line(
    options: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["synthetic", str(tmp_path / "out"), *options])
    with pytest.raises(SystemExit) as exit:
        synthetic.console.run(synthetic.app)
    shown = capsys.readouterr().err
    assert exit.value.code == 2
    assert line in shown and len(shown.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="is a file; name a folder"):
        make(tmp_path / "taken", **SMALL)


def test_forty_speakers_are_forty_voices() -> None:
    for seed in (0, 1):
        people = make_speakers(40, seed)
        assert len({speaker.voice.name for speaker in people}) == 40
        assert [speaker.sex for speaker in people] == ["F", "M"] * 20
    assert len({speaker.voice for speaker in make_speakers(400, 0)}) == 400


def test_sessions_of_a_speaker_differ_a_little() -> None:
    speaker = make_speakers(4, 0)[0]
    sessions = chapters(speaker, 0)
    assert len({session.level for session in sessions}) == synthetic.CHAPTERS
    assert all(abs(session.pace) <= 8 and 30 <= session.snr - 1 <= session.snr + 1 <= 45 for session in sessions)


def test_sentences_are_many_and_of_the_right_length() -> None:
    draw = default_rng(0)
    drawn = [sentences.sentence(draw) for _ in range(2000)]
    lengths = [len(one.split()) for one in drawn]
    assert min(lengths) >= sentences.SHORTEST and max(lengths) <= sentences.LONGEST
    assert len(set(drawn)) > 1950
    assert len(sentences.vocabulary()) > 500
    assert {word for one in drawn for word in re.findall(r"[a-z]+", one.lower())} <= {
        word.lower() for word in sentences.vocabulary()
    }


def test_packing_elsewhere_gives_the_same_audio(made: Path, corpus: Corpus, tmp_path: Path) -> None:
    books = [
        synthetic.read_chapter(made, chapter) for speaker in make_speakers(6, 0) for chapter in chapters(speaker, 0)
    ]
    pack([one.source for book in books for one in book], tmp_path / "packed", workers=1, progress=False)
    assert Corpus.open(tmp_path / "packed").digest == corpus.digest
