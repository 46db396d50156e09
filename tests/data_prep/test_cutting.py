"""Long files become segments: only those, once, the same ones always, whatever kills it, in little memory."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cpc.audio.decode import Reader, decode
from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.data.pack import pack
from cpc.data.shards import Source
from data_prep import cutting
from data_prep.cutting import CUTS, Rules, cut_files, segment_id

RATE = 16000
RULES = Rules(longest=5.0)


def write_talk(path: Path, talks: int, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """`talks` times two seconds of loud noise and one of soft noise."""
    rng = np.random.default_rng(seed)
    gate = np.tile(np.repeat([1.0, 0.01], [2 * rate, rate]), talks)
    samples = np.clip(6000 * gate * rng.normal(size=len(gate)), -32768, 32767).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate)
    return samples


def source(path: Path, text: str = "") -> Source:
    return Source(path.stem, path, "ann", text=text)


def cut(sources: list[Source], out: Path, rules: Rules = RULES, workers: int = 2) -> list[Source]:
    root = sources[0].path.parent
    return list(cut_files(sources, root, out, rules, workers=workers, progress=False))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_long_file_is_cut_in_its_pauses_and_packed_sample_for_sample(tmp_path: Path) -> None:
    samples = write_talk(tmp_path / "in/a.flac", 4)
    parts = cut([source(tmp_path / "in/a.flac", "HELLO")], tmp_path / "out")
    # Pauses are centred at 2.5, 5.5, 8.5 s. Of up to 5 s: the first cut lies between 2.5 and 5 s, the next 2.5 to 5 on.
    assert [part.id for part in parts] == [
        "a-00000000-00000250",
        "a-00000250-00000550",
        "a-00000550-00000850",
        "a-00000850-00001200",
    ]
    assert {(part.speaker, part.chapter, part.text) for part in parts} == {("ann", "a", "")}
    pack(parts, tmp_path / "out", progress=False)
    corpus = Corpus.open(tmp_path / "out")
    assert np.array_equal(np.concatenate([corpus.waveform(row) for row in range(4)]), samples)
    lines = [json.loads(line) for line in (tmp_path / "out" / CUTS).read_text().splitlines()]
    assert lines[0] == {"longest": 5.0, "trim": None}
    assert lines[1]["path"] == "a.flac"
    assert lines[1]["spans"][1] == [2.5 * 16000, 5.5 * 16000]


def test_without_long_files_nothing_is_read_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [source(tmp_path / f"in/{name}.wav") for name in "ba"]
    for each in sources:
        write_talk(each.path, 1)
    monkeypatch.setattr(Reader, "_read", lambda *_: pytest.fail("read"))
    assert cut(sources, tmp_path / "out") == sources[::-1]
    assert not (tmp_path / "out").exists()


def test_what_one_file_gives_depends_on_neither_the_others_nor_the_workers(tmp_path: Path) -> None:
    for place in range(5):
        write_talk(tmp_path / f"in/{place}.wav", 2 + place, seed=place)
    sources = [source(tmp_path / f"in/{place}.wav") for place in range(5)]
    alone = [part for each in sources for part in cut([each], tmp_path / f"alone{each.id}", workers=1)]
    together = cut(sources[::-1], tmp_path / "together", workers=4)
    assert together == alone
    cut(sources, tmp_path / "again", workers=1)
    assert (tmp_path / "again" / CUTS).read_bytes() == (tmp_path / "together" / CUTS).read_bytes()
    assert str(tmp_path) not in (tmp_path / "again" / CUTS).read_text()


def test_segment_ids_sort_by_time_and_keep_hundredths_of_seconds() -> None:
    assert segment_id("x", 0, 44100, 44100) == "x-00000000-00000100"
    assert segment_id("x", 22050 * 36000, None, 22050) == "x-03600000-end"
    ids = [segment_id("x", start * 441, start * 441 + 5, 44100) for start in (9, 10, 99, 100, 10**6)]
    assert ids == sorted(ids)


def test_trimmed_files_that_stay_one_keep_id_and_text_and_silent_ones_fall_away(tmp_path: Path) -> None:
    quiet = np.zeros(2 * RATE, np.int16)
    loud = write_talk(tmp_path / "in/loud.wav", 1)[: 2 * RATE]
    soundfile.write(tmp_path / "in/padded.wav", np.concatenate([quiet, loud, quiet]), RATE)
    soundfile.write(tmp_path / "in/silent.wav", quiet, RATE)
    soundfile.write(tmp_path / "in/steady.wav", loud, RATE)
    names = ["padded", "silent", "steady"]
    parts = cut([source(tmp_path / f"in/{name}.wav", name) for name in names], tmp_path / "out", Rules(5.0, trim=1.0))
    assert [(part.id, part.text, part.start, part.stop) for part in parts] == [
        ("padded", "padded", 1.5 * RATE, 4.5 * RATE),  # half a second of silence stays at either side
        ("steady", "steady", 0, None),
    ]


def test_a_clash_of_ids_names_both_files_before_anything_is_read(tmp_path: Path) -> None:
    for name in ("a.wav", "a.flac"):
        write_talk(tmp_path / "in" / name, 4)
    with pytest.raises(InputError, match=r"id=a: two files would share it: .*a\.(wav|flac) and .*a\.(wav|flac)"):
        cut([source(tmp_path / "in/a.wav"), source(tmp_path / "in/a.flac")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a.flac", "a.wav", "a.aiff"])
def test_a_long_file_that_breaks_off_keeps_what_is_there_and_reports_the_rest(tmp_path: Path, name: str) -> None:
    samples = write_talk(tmp_path / "in" / name, 6)
    write_talk(tmp_path / "in/b.flac", 1)
    content = (tmp_path / "in" / name).read_bytes()
    (tmp_path / "in" / name).write_bytes(content[: len(content) // 2])
    sources = [source(tmp_path / "in" / name), source(tmp_path / "in/b.flac")]
    report = pack(cut(sources, tmp_path / "out"), tmp_path / "out", progress=False)
    corpus = Corpus.open(tmp_path / "out")
    rows = [row for row, id in enumerate(corpus.ids) if id.startswith("a-")]
    kept = np.concatenate([corpus.waveform(row) for row in rows])
    assert len(samples) * 0.4 < len(kept) < len(samples) * 0.6
    assert np.array_equal(kept, samples[: len(kept)])
    assert report[:2] == (len(rows) + 1, 1)
    lacks = len(samples) - len(kept)
    assert (
        f"{name}\tsamples {len(kept)} to {len(samples)}: cut short or damaged: only 0 of {lacks}"
        in (tmp_path / "out/skipped.tsv").read_text()
    )


def test_nan_costs_a_long_file_only_the_utterance_that_holds_it(tmp_path: Path) -> None:
    samples = write_talk(tmp_path / "in/a.wav", 4) / np.float32(32768)
    samples[4 * RATE] = np.nan
    soundfile.write(tmp_path / "in/a.wav", samples, RATE, subtype="FLOAT")
    report = pack(cut([source(tmp_path / "in/a.wav")], tmp_path / "out"), tmp_path / "out", progress=False)
    assert report[:2] == (3, 1)
    assert "a-00000250-00000550" not in Corpus.open(tmp_path / "out").ids
    assert "samples 40000 to 88000: 1 samples are NaN" in (tmp_path / "out/skipped.tsv").read_text()


def test_what_cannot_be_opened_is_left_to_packing(tmp_path: Path) -> None:
    write_talk(tmp_path / "in/a.wav", 4)
    (tmp_path / "in/b.wav").write_bytes(b"")
    (tmp_path / "in/c.flac").write_bytes(b"fLaC but no more")
    sources = [source(tmp_path / "in" / name) for name in ("a.wav", "b.wav", "c.flac")]
    for rules, out in ((RULES, tmp_path / "one"), (Rules(5.0, trim=1.0), tmp_path / "two")):
        report = pack(cut(sources, out, rules), out, progress=False)
        assert report.skipped == 2
        assert report.packed == 4
        reasons = dict(line.split("\t") for line in (out / "skipped.tsv").read_text().splitlines())
        assert reasons["b.wav"] == "empty: 0 bytes"
        assert reasons["c.flac"].startswith("cannot be decoded")


@pytest.mark.parametrize("name", ["a.opus", "a.mp3", "a.ogg"])
def test_lossy_files_give_the_slices_of_one_whole_decode(tmp_path: Path, name: str) -> None:
    write_talk(tmp_path / "a.wav", 6)
    kind = {"format": "OGG", "subtype": "OPUS"} if name == "a.opus" else {}
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / name, soundfile.read(tmp_path / "a.wav")[0], 16000, **kind)
    parts = cut([source(tmp_path / "in" / name)], tmp_path / "out")
    assert len(parts) > 3
    pack(parts, tmp_path / "out", shard_samples=100000, progress=False)  # shards begin in the middle of the file
    corpus = Corpus.open(tmp_path / "out")
    whole = np.rint(np.clip(decode(tmp_path / "in" / name) * 32768, -32768, 32767))
    assert len(list((tmp_path / "out/shards").iterdir())) > 1
    assert np.array_equal(np.concatenate([corpus.waveform(row) for row in range(len(corpus))]), whole)


def test_a_finished_corpus_is_recognised_without_reading_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [source(tmp_path / f"in/{name}.wav") for name in "ab"]
    for each in sources:
        write_talk(each.path, 3)
    first = cut(sources, tmp_path / "out")
    pack(first, tmp_path / "out", progress=False)
    whole = files(tmp_path / "out")
    monkeypatch.setattr(Reader, "_read", lambda *_: pytest.fail("read"))
    assert cut(sources, tmp_path / "out") == first
    assert not pack(first, tmp_path / "out", progress=False).fresh
    assert files(tmp_path / "out") == whole


def test_other_rules_and_other_files_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_talk(tmp_path / "in/a.wav", 3)
    write_talk(tmp_path / "in/b.wav", 3)
    sources = [source(tmp_path / "in/a.wav")]
    pack(cut(sources, tmp_path / "out"), tmp_path / "out", progress=False)
    monkeypatch.setattr(Reader, "_read", lambda *_: pytest.fail("read"))
    with pytest.raises(InputError, match=r'cut by other rules \({"longest": 5\.0, "trim": null}\); remove it'):
        cut(sources, tmp_path / "out", Rules(6.0))
    with pytest.raises(InputError, match="a packed corpus of other files or settings"):
        cut([*sources, source(tmp_path / "in/b.wav")], tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.txt").touch()
    with pytest.raises(InputError, match="files that are not a packed corpus"):
        cut(sources, tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"longest": 1.9}, "longest=1.9: must be at least 2 seconds"),
        ({"longest": float("nan")}, "longest=nan"),
        ({"trim": 0.1}, "trim=0.1: must be at least 0.2 seconds"),
    ],
)
def test_rules_that_make_no_sense_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Rules(**settings)


def test_a_restart_reads_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [source(tmp_path / f"in/{name}.wav") for name in "abc"]
    for place, each in enumerate(sources):
        write_talk(each.path, 3 + place)
    whole = cut(sources, tmp_path / "whole")
    read, find = [], cutting.find_cuts

    def die_at_the_third(path: Path, name: str, rules: Rules) -> cutting.Cuts:
        read.append(name)
        if len(read) == 3:
            raise KeyboardInterrupt
        return find(path, name, rules)

    monkeypatch.setattr(cutting, "find_cuts", die_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        cut(sources, tmp_path / "out", workers=1)
    log = tmp_path / "out/packing" / CUTS
    log.write_text(log.read_text() + '{"path": "c.wav", "si')  # as a kill in the middle of a line leaves it
    assert cut(sources, tmp_path / "out", workers=1) == whole
    assert read == ["a.wav", "b.wav", "c.wav", "c.wav"]
    assert (tmp_path / "out" / CUTS).read_bytes() == (tmp_path / "whole" / CUTS).read_bytes()


# Each run is a fork, so that libraries are loaded once. The child kills itself at its n-th moment: at each line that
# is written down, before and after each file takes its final name, and at each decoded segment.
KILLS = """
import os, signal, sys
from pathlib import Path
import pandas, pyarrow.parquet, soundfile  # pandas: pyarrow would load it in each child
sys.path.insert(0, sys.argv[2])
from test_cutting import RULES, source, write_talk
from cpc.data.pack import pack; from cpc.data import shards
from data_prep import cutting

os.fsync = lambda file: None
folder = Path(sys.argv[1])
sources = [source(folder / f"in/{place}.flac") for place in range(4)]
for place, each in enumerate(sources):
    write_talk(each.path, 1 + place, seed=place)

def die_at(last):
    passed = [0]
    def moment(then):
        def wrapped(*arguments, **named):
            passed[0] += 1
            if passed[0] == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return then(*arguments, **named)
        return wrapped
    Path.replace = moment(Path.replace)
    cutting._line = moment(cutting._line)
    cutting._write = moment(cutting._write)
    shards._Segments.decode = moment(shards._Segments.decode)

def run(out, last=0):
    child = os.fork()
    if child == 0:
        die_at(last)
        parts = cutting.cut_files(sources, folder / "in", out, RULES, workers=2, progress=False)
        pack(parts, out, workers=2, shard_samples=100000, progress=False)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def content(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}

assert run(folder / "whole") == 0
whole = content(folder / "whole")
assert {"corpus.json", "cuts.jsonl"} < set(whole), whole.keys()
assert not any(name.startswith("packing") for name in whole), whole.keys()
killed = 0
for last in range(1, 200):
    out = folder / f"at{last}"
    code = run(out, last)
    killed += code == -signal.SIGKILL
    assert run(out) == 0
    assert content(out) == whole, f"killed at moment {last}"
    if code == 0:
        break
assert killed > 20, killed
"""


def test_killed_at_any_moment_then_run_again_gives_the_same_bytes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLS, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr


MEMORY = """
import resource, sys
from pathlib import Path
from test_cutting import source
from cpc.data.corpus import Corpus; from cpc.data.pack import pack
from data_prep.cutting import Rules, cut_files

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB, of kilobytes on Linux

def run(name):
    made = source(folder / f"{name}.wav")
    parts = list(cut_files([made], folder, folder / name, Rules(), workers=2, progress=False))
    return parts, pack(parts, folder / name, workers=2, progress=False)

folder = Path(sys.argv[1])
run("short")  # loads what is loaded late
before = peak()
parts, report = run("long")
print(len(parts), report.packed, report.skipped, report.seconds, peak() - before)
"""


@pytest.mark.slow
def test_three_hours_are_cut_and_packed_in_little_memory(tmp_path: Path) -> None:
    hours, rate = 3, 8000
    minute = write_talk(tmp_path / "short.wav", 40, rate)  # two minutes
    with soundfile.SoundFile(tmp_path / "long.wav", "w", rate, 1, subtype="PCM_16") as file:
        for _ in range(hours * 30):
            file.write(minute)
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent, env=_environment()
    )
    assert done.returncode == 0, done.stderr
    parts, packed, skipped, seconds, grown = map(float, done.stdout.split())
    assert (parts, skipped) == (packed, 0)
    assert seconds == hours * 3600
    assert parts >= hours * 60
    # The file is 165 MiB as int16, 330 as float32, 660 at 16 kHz. A worker holds a block of 2^20 samples a few times
    # over (4 MiB each, float64 8), levels (4 bytes each 10 ms: 4 MiB) and one minute of audio.
    assert grown < 80


def _environment() -> dict[str, str]:
    root = Path(__file__).parents[2]
    return os.environ | {"PYTHONPATH": f"{root}:{Path(__file__).parent}"}


def test_a_file_that_changed_is_cut_anew(tmp_path: Path) -> None:
    write_talk(tmp_path / "in/a.wav", 3)
    write_talk(tmp_path / "in/b.wav", 3)
    sources = [source(tmp_path / f"in/{name}.wav") for name in "ab"]
    cut(sources, tmp_path / "out")
    write_talk(tmp_path / "in/b.wav", 5)
    parts = cut(sources, tmp_path / "out")
    assert [part.stop for part in parts if part.path.stem == "b"][-1] == 15 * RATE
    assert replace(parts[0], id="") == replace(cut(sources[:1], tmp_path / "other")[0], id="")
