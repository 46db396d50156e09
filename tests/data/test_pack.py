"""Packing: every sample kept, the same bytes always, whatever kills it."""

import fcntl
import hashlib
import json
import subprocess
import sys
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from cpc.audio.decode import Reader
from cpc.config import InputError
from cpc.data import pack as listing
from cpc.data import pack as plan
from cpc.data import shards
from cpc.data.corpus import Corpus
from cpc.data.pack import cut, pack, take_shard
from cpc.data.shards import Source

Make = Callable[[int], list[Source]]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_sample_survives(tmp_path: Path, sources: Make, samples_of: Callable[[int], np.ndarray]) -> None:
    report = pack(sources(20), tmp_path / "out", shard_samples=3000, progress=False)
    corpus = Corpus.open(tmp_path / "out")
    total = sum(len(samples_of(place)) for place in range(20))
    assert report == (20, 0, total / 16000, True, 0)
    assert corpus.ids == [f"u{place:02d}" for place in range(20)]
    for place in range(20):
        assert np.array_equal(corpus.waveform(place), samples_of(place))
    assert len(list((tmp_path / "out" / "shards").iterdir())) > 5
    assert not (tmp_path / "out" / "packing").exists()


def test_bytes_depend_on_neither_workers_nor_order_nor_place(tmp_path: Path, sources: Make) -> None:
    made = sources(20)
    pack(made, tmp_path / "one", workers=1, shard_samples=3000, progress=False)
    (tmp_path / "audio").rename(tmp_path / "moved")
    moved = [Source(s.id, tmp_path / "moved" / s.path.relative_to(tmp_path / "audio"), *_rest(s)) for s in made]
    pack(moved[::-1], tmp_path / "two", workers=4, shard_samples=3000, progress=False)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert str(tmp_path).encode() not in b"".join(files(tmp_path / "one").values())


def _rest(source: Source) -> tuple[str, str, str, str, str]:
    return source.speaker, source.chapter, source.sex, source.subset, source.text


def test_unusable_files_are_listed_with_their_reasons(tmp_path: Path, sources: Make) -> None:
    made = sources(6)
    made[0].path.write_bytes(b"")
    made[1].path.write_bytes(b"no audio at all " * 20)
    soundfile.write(made[2].path, np.array([np.nan, 0.5], np.float32), 16000, subtype="FLOAT")
    made[3].path.unlink()
    report = pack(made, tmp_path / "out", progress=False)
    assert report[:2] == (2, 4)
    assert Corpus.open(tmp_path / "out").ids == ["u00", "u01"]
    lines = (tmp_path / "out" / "skipped.tsv").read_text().splitlines()
    assert lines[0] == "path\treason"
    reasons = dict(line.split("\t") for line in lines[1:])
    assert "empty" in reasons["s2/u05.wav"]
    assert "cannot be decoded" in reasons["s1/u04.wav"]
    assert "NaN" in reasons["s0/u03.wav"]
    assert reasons["s2/u02.wav"] == "no such file"


def test_skipped_files_are_named_from_the_root_that_is_given(tmp_path: Path, sources: Make) -> None:
    made = sources(6)
    for source in made:
        source.path.write_bytes(b"")
    parts = [take_shard(made, i, 6) for i in range(1, 7)]
    pack(made, tmp_path / "whole", progress=False)
    lines = []
    for place, part in enumerate(parts):
        pack(part, tmp_path / f"own{place}", progress=False)
        pack(part, tmp_path / f"part{place}", root=tmp_path / "audio", progress=False)
        lines += (tmp_path / f"part{place}/skipped.tsv").read_text().splitlines()[1:]
        plans = [json.loads((tmp_path / f"{name}{place}/corpus.json").read_text()) for name in ("own", "part")]
        assert plans[0] == plans[1]  # who has packed the part already need not do it again
    assert lines == (tmp_path / "whole/skipped.tsv").read_text().splitlines()[1:]
    assert lines[0] == "s0/u00.wav\tempty: 0 bytes"
    assert (tmp_path / "own0/skipped.tsv").read_text().splitlines()[1:] == ["u00.wav\tempty: 0 bytes"]


def test_sources_are_taken_one_at_a_time_and_none_is_held(tmp_path: Path, sources: Make) -> None:
    """A worker holds a shard's rows, the threads that read lengths a few hundred sources each; nothing holds all."""
    file = sources(1)[0].path
    alive: weakref.WeakSet[Source] = weakref.WeakSet()
    most = 0

    class Watched(Source):
        pass  # without slots, so that it may be referred to weakly

    def made() -> Iterator[Source]:
        nonlocal most
        for place in range(1000):
            source = Watched(f"{place:04d}", file, "s")
            alive.add(source)
            yield source
            del source
            most = max(most, len(alive))

    assert pack(made(), tmp_path / "out", shard_samples=20000, progress=False).packed == 1000
    assert most <= 2


def test_memory_does_not_grow_with_the_number_of_files(
    tmp_path: Path, sources: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = sources(1)[0].path
    for module, name in ((plan, "_CHUNK"), (listing, "_CHUNK"), (shards, "ROW_GROUP")):
        monkeypatch.setattr(module, name, 16)

    def peak(count: int) -> int:
        made = (Source(f"{place:05d}", file, "s", text="some words " * 20) for place in range(count))
        tracemalloc.start()
        pack(made, tmp_path / f"out{count}", workers=1, shard_samples=20000, progress=False)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(10)  # loads what is loaded late
    few, many = peak(200), peak(800)
    assert many < few + 100_000  # a list of 600 sources takes 0.4 MB


def test_stereo_at_another_rate_is_mixed_down_and_resampled(tmp_path: Path) -> None:
    time = np.arange(44100) / 44100
    wave = 0.4 * np.sin(2 * np.pi * 500 * time)
    soundfile.write(tmp_path / "a.flac", np.stack([wave, wave], 1), 44100)
    pack([Source("a", tmp_path / "a.flac", "s")], tmp_path / "out", progress=False)
    samples = Corpus.open(tmp_path / "out").waveform(0) / 32768
    expected = 0.4 * np.sin(2 * np.pi * 500 * np.arange(16000) / 16000)
    assert samples.shape == expected.shape
    assert np.abs(samples - expected)[400:-400].max() < 1e-3


def cut_up(source: Source, edges: list[int]) -> list[Source]:
    return [replace(source, id=f"{source.id}-{start:05d}", start=start, stop=stop) for start, stop in pairwise(edges)]


def test_segments_of_files_are_utterances_of_their_own(
    tmp_path: Path, sources: Make, samples_of: Callable[[int], np.ndarray]
) -> None:
    made = sources(6)[::-1]
    parts = [part for source in made[:3] for part in cut_up(source, [0, 100, 130, 290])]
    open_end = replace(made[3], id="u03-end", start=200)
    pack([*parts[::-1], open_end, *made[4:]], tmp_path / "out", shard_samples=700, progress=False)
    corpus = Corpus.open(tmp_path / "out")
    assert len(corpus) == 3 * 3 + 1 + 2
    for place in range(3):
        for start, stop in ((0, 100), (100, 130), (130, 290)):
            row = corpus.row(f"u{place:02d}-{start:05d}")
            assert np.array_equal(corpus.waveform(row), samples_of(place)[start:stop])
            assert corpus.speakers[row] == f"s{place % 3}"
    assert np.array_equal(corpus.waveform(corpus.row("u03-end")), samples_of(3)[200:])
    assert np.array_equal(corpus.waveform(corpus.row("u05")), samples_of(5))
    sizes = [np.load(file, mmap_mode="r").size for file in sorted((tmp_path / "out/shards").iterdir())]
    assert max(sizes) <= max(700, *(len(samples_of(place)) for place in (3, 4, 5)))  # lengths came from segments


def test_the_segments_of_a_file_cost_one_opening_a_shard(
    tmp_path: Path, sources: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    class Counted(Reader):
        def __init__(self, path: Path, *, strict: bool = False) -> None:
            opened.append(path)
            super().__init__(path, strict=strict)

    monkeypatch.setattr(shards, "Reader", Counted)
    parts = [part for source in sources(2) for part in cut_up(source, [0, 100, 200, 300])]
    pack(parts, tmp_path / "out", progress=False)
    assert sorted(path.stem for path in opened) == ["u00", "u01"]


def test_a_segment_beyond_its_file_is_skipped_alone(tmp_path: Path, sources: Make) -> None:
    source = sources(1)[0]
    parts = cut_up(source, [0, 100, 290, 5000])
    assert pack(parts, tmp_path / "out", progress=False)[:2] == (2, 1)
    line = (tmp_path / "out/skipped.tsv").read_text().splitlines()[1]
    assert line.startswith("u00.wav\tsamples 290 to 5000: cut short or damaged: only ")


def test_the_plan_of_whole_files_is_what_it_was_before_there_were_segments(tmp_path: Path, sources: Make) -> None:
    made = sorted(sources(4), key=lambda source: source.id)
    pack(made, tmp_path / "out", progress=False)
    # Corpora that were packed by earlier versions are recognised by this digest: it must not move.
    sha = hashlib.sha256(json.dumps([1, 16000, 1 << 25]).encode())
    for source in made:
        place = f"{source.path.parent.name}/{source.path.name}"
        row = [place, source.path.stat().st_size, source.id, *_rest(source)]
        sha.update(json.dumps(row).encode())
    assert json.loads((tmp_path / "out/corpus.json").read_text())["plan"] == sha.hexdigest()


def test_other_segments_are_another_corpus(tmp_path: Path, sources: Make) -> None:
    source = sources(1)[0]
    pack(cut_up(source, [0, 100, 200]), tmp_path / "out", progress=False)
    moved = [replace(part, stop=(part.stop or 0) - 1) for part in cut_up(source, [0, 100, 200])]
    with pytest.raises(InputError, match="other files or settings"):
        pack(moved, tmp_path / "out", progress=False)


@given(st.integers(1, 60), st.data())
def test_shards_of_the_work_are_contiguous_nearly_equal_and_together_all(count: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, count))
    made = [Source(f"{place:02d}", Path("x"), "s") for place in range(count)]
    parts = [take_shard(made[::-1], i, n) for i in range(1, n + 1)]
    assert [source for part in parts for source in part] == made
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("i", "n", "rule"), [(0, 2, "1 <= I <= N"), (3, 2, "1 <= I <= N"), (1, 0, "1 <= I <= N"), (1, 4, "only 3 files")]
)
def test_a_shard_that_cannot_be_is_refused(i: int, n: int, rule: str) -> None:
    with pytest.raises(InputError, match=f"shard={i}/{n}: .*{rule}"):
        take_shard([Source(name, Path("x"), "s") for name in "abc"], i, n)


def test_a_finished_corpus_is_left_alone_and_another_is_refused(tmp_path: Path, sources: Make) -> None:
    made, out = sources(6), tmp_path / "out"
    first = pack(made, out, progress=False)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert pack(made, out, progress=False) == (*first[:3], False, 0)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times
    with pytest.raises(InputError, match="other files or settings; remove it"):
        pack(made[1:], out, progress=False)
    with pytest.raises(InputError, match="not a packed corpus"):
        pack(made, tmp_path / "audio", progress=False)


def test_clashing_and_unusable_ids_and_nothing_are_refused(tmp_path: Path) -> None:
    clash = [Source("a", tmp_path / name, "s") for name in ("a.wav", "a.flac")]
    with pytest.raises(InputError, match=r"a\.wav and .*a\.flac"):
        pack(clash, tmp_path / "out", progress=False)
    with pytest.raises(InputError, match="printable"):
        pack([Source("a\nb", tmp_path / "a.wav", "s")], tmp_path / "out", progress=False)
    with pytest.raises(InputError, match="at least one"):
        pack([], tmp_path / "out", progress=False)


def test_two_packings_do_not_share_a_folder(tmp_path: Path, sources: Make) -> None:
    lock = tmp_path / "out" / "packing" / "lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process is packing"):
            pack(sources(3), tmp_path / "out", progress=False)


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path, sources: Make) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        pack(sources(3), tmp_path / "file" / "out", progress=False)


@given(st.lists(st.integers(0, 50)), st.integers(1, 100))
def test_cut_keeps_everything_fills_shards_and_never_overfills(lengths: list[int], most: int) -> None:
    counts = cut(lengths, most)
    assert sum(counts) == len(lengths)
    place = 0
    for count in counts:
        run = lengths[place : place + count]
        assert count == 1 or sum(run) <= most
        place += count
        assert place == len(lengths) or sum(run) + lengths[place] > most


# Each run is a fork, so that torch is imported once. `die_at(n)` kills the process with SIGKILL at its n-th moment of
# interest: before and after each file takes its final name, and after each decoded utterance.
KILLS = """
import os, signal, sys, time
from pathlib import Path
import pandas, pyarrow.parquet, soundfile  # so that no child has to (pyarrow loads pandas)
sys.path.insert(0, sys.argv[2])
from conftest import write_sources
from cpc.data.pack import pack; from cpc.data import shards

os.fsync = lambda file: None  # slow, and SIGKILL does not lose what the system holds
folder = Path(sys.argv[1])
sources = write_sources(folder / "audio", 10)
sources[5].path.write_bytes(b"broken")

def die_at(last):
    passed = [0]
    def moment():
        passed[0] += 1
        if passed[0] == last:
            os.kill(os.getpid(), signal.SIGKILL)
    rename, decode = Path.replace, shards._Segments.decode
    def replace(path, target):
        moment()
        rename(path, target)
        moment()
    def decode_then(*arguments):
        moment()
        return decode(*arguments)
    Path.replace, shards._Segments.decode = replace, decode_then

def run(out, last=0, delay=None):
    child = os.fork()
    if child == 0:
        die_at(last)
        pack(sources, out, workers=2, shard_samples=2500, progress=False)
        os._exit(0)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def content(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}

assert run(folder / "warm") == 0
start = time.monotonic()
assert run(folder / "whole") == 0
seconds = time.monotonic() - start
whole = content(folder / "whole")
assert "corpus.json" in whole and not any(name.startswith("packing") for name in whole), whole.keys()

killed = 0
for last in range(1, 200):
    out = folder / f"at{last}"
    code = run(out, last)
    killed += code == -signal.SIGKILL
    assert code in (0, -signal.SIGKILL), code
    assert run(out) == 0
    assert content(out) == whole, f"killed at moment {last}"
    if code == 0:
        break
assert killed > 30, killed

for step in range(6):  # any moment at all, and twice in a row
    out = folder / f"after{step}"
    run(out, delay=seconds * step / 6)
    run(out, delay=seconds * (5 - step) / 6)
    assert run(out) == 0
    assert content(out) == whole, f"killed after {step}"
print(killed)
"""


def test_killed_at_any_moment_then_run_again_gives_the_same_bytes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLS, str(tmp_path), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
