"""Packing: its speed beside decoding alone, where its time goes, and its memory by hours. See `benchmarks.corpus`."""

import hashlib
import os
import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.measures import child, markdown, memory, timed
from cpc.audio import decode, probe, to_int16, write_flac
from cpc.corpus import Source, pack

RATE = 16000
SECONDS = 12  # of an utterance, as in LibriSpeech
HOURS = (1, 10, 100, 1000)


def synthesise(folder: Path, hours: float) -> list[Path]:
    """FLACs of tones in noise, 40 different ones, hard-linked under as many names as `hours` take."""
    generator = np.random.default_rng(0)
    clock = np.arange(SECONDS * RATE) / RATE
    made: list[Path] = []
    for number in range(round(hours * 3600 / SECONDS)):
        path = folder / f"{number:05d}.flac"
        if number < 40:
            pitch = 120 * (1 + 0.2 * np.sin(2 * np.pi * generator.uniform(1, 4) * clock)) * (1 + number / 40)
            phase = 2 * np.pi * np.cumsum(pitch) / RATE
            voice = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 9))
            wave = voice * np.clip(np.sin(2 * np.pi * 1.5 * clock), 0, 1) * 0.1 + generator.normal(0, 0.003, len(clock))
            write_flac(path, to_int16(wave.astype(np.float32)))
        else:
            os.link(made[number - 40], path)
        made.append(path)
    return made


def packing(files: list[Path], scratch: Path, rounds: int, what: str) -> None:
    """Packing on one worker beside the barest decoding, soundfile to int16, and where packing's time goes."""
    sources = [Source(f"{number:06d}", file, "") for number, file in enumerate(files)]
    seconds = sum(soundfile.info(file).duration for file in files)
    out = scratch / "packed"

    def bare() -> None:
        for file in files:
            soundfile.read(file, dtype="int16")

    def whole() -> None:
        pack(sources, out, workers=1, progress=False)

    times: dict[str, list[tuple[float, float]]] = {"decoding alone": [], "packing": []}
    for number in range(rounds + 1):
        for name, work in zip(times, (bare, whole), strict=True):
            taken = timed(work)
            shutil.rmtree(out, ignore_errors=True)
            if number:  # the first round warms up
                times[name].append(taken)
    share = statistics.median(b[0] / p[0] for b, p in zip(*times.values(), strict=True))
    size = sum(file.stat().st_size for file in files) / (seconds * 2 * RATE)
    print(f"\n{what}: {len(files)} files, {seconds / 3600:.2f} h, {100 * size:.0f}% of int16's size, {rounds} rounds\n")
    rows = []
    for name, values in times.items():
        cpu, wall = (statistics.median(column) for column in zip(*values, strict=True))
        rows.append([name, f"{cpu:.2f}", f"{seconds / cpu:,.0f}", f"{wall:.2f}", f"{seconds / wall:,.0f}"])
    head = ["one core", "CPU s", "× real time (CPU)", "wall s", "× real time (wall)"]
    print(markdown(head, [*rows, ["decoding alone / packing", f"{share:.2f}", "", "", ""]]))
    steps = stages(files, scratch / "shard")
    total = sum(steps.values())
    rows = [[name, f"{step:.2f}", f"{step / total:.2f}"] for name, step in steps.items()]
    print("\n" + markdown(["step of packing, alone", "CPU s", "share"], rows))


def stages(files: list[Path], target: Path) -> dict[str, float]:
    """CPU seconds of the calls that packing makes, one after another for each file, with a clock between them."""
    names = ("header, for the plan", "decoding to float", "to int16", "sha256", "writing", "to the disk (fsync)")
    taken = dict.fromkeys(names, 0.0)
    sha = hashlib.sha256()
    with target.open("wb") as shard:
        for file in files:
            clock = [time.thread_time()]
            probe(file)
            clock.append(time.thread_time())
            wave = decode(file)
            clock.append(time.thread_time())
            samples = to_int16(wave)
            clock.append(time.thread_time())
            sha.update(samples.data)
            clock.append(time.thread_time())
            shard.write(samples.data)
            for name, step in zip(names, np.diff([*clock, time.thread_time()]), strict=False):
                taken[name] += float(step)
        start = time.thread_time()
        os.fsync(shard.fileno())
        taken[names[-1]] = time.thread_time() - start
    target.unlink()
    return taken


def repeated(folder: Path, hours: int) -> Iterator[Source]:
    """Utterances of noise at 8 kHz: a thousand names for each of as many files as that takes (WAV decodes fastest)."""
    noise = np.random.default_rng(0).integers(-3000, 3000, SECONDS * 8000).astype(np.int16)
    for number in range(hours * 3600 // SECONDS):
        path = folder / f"{number // 1000:03d}" / f"{number:07d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number % 1000:
            os.link(path.with_name(f"{number - number % 1000:07d}.wav"), path)
        else:
            soundfile.write(path, noise, 8000)
        yield Source(path.stem, path, path.parent.name, text=f"{number} " * 25)


def empty(out: Path, over: threading.Event) -> None:
    """Give back the disk of every shard that is complete, for a disk that would not hold them all."""
    done: set[str] = set()
    while not over.wait(0.05):
        for part in (out / "packing").glob("[0-9]*.json"):
            if part.stem not in done:
                os.truncate(out / "shards" / f"{part.stem}.npy", 0)
                done.add(part.stem)


def pack_in_child(hours: int, scratch: Path) -> dict[str, float]:
    """Peak memory of this process while it packs `hours`, and what it held before."""
    import pyarrow.parquet  # noqa: F401 (a library that packing loads)

    loaded = memory("VmRSS")
    sources = list(repeated(scratch / "audio", hours))
    held, over = memory("VmRSS"), threading.Event()
    thread = threading.Thread(target=empty, args=(scratch / "out", over))
    thread.start()
    cpu, wall = timed(lambda: pack(sources, scratch / "out", workers=1, sample_rate=8000, progress=False))
    over.set()
    thread.join()
    found = {"files": len(sources), "loaded": loaded, "sources": held - loaded, "peak": memory("VmHWM")}
    return found | {"cpu": cpu, "wall": wall}


def memories(scratch: Path, most: int) -> None:
    """Peak memory of packing by hours."""
    found = {hours: child("memory", hours, scratch) for hours in HOURS if hours <= most}
    rows = []
    for hours, f in found.items():
        own = f["peak"] - f["loaded"] - f["sources"]
        parts = [f"{f['loaded']:.0f}", f"{f['sources']:.0f}", f"{own:.0f}", f"{f['peak']:.0f}"]
        rows.append([f"{hours:,}", f"{f['files']:,}", *parts, f"{f['peak'] / found[1]['peak']:.2f}", f"{f['cpu']:.0f}"])
    parts = ["libraries, MiB", "list of sources, MiB", "packing, MiB", "peak, MiB"]
    print("\n" + markdown(["hours", "utterances", *parts, "ratio", "CPU s"], rows))
