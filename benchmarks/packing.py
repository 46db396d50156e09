"""Packing: its speed beside decoding alone, where its time goes, and its memory by hours. See `benchmarks.corpus`."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.measures import markdown, memory, timed
from cpc.audio.decode import decode, probe, to_int16, walk_audio, write_flac
from cpc.data.pack import pack
from cpc.data.shards import Source
from data_prep.metadata import describe

RATE = 16000
SECONDS = 12  # of an utterance, as in LibriSpeech
FILES = (300, 3_000, 30_000, 300_000)  # 1, 10, 100 and 1000 hours of such utterances
A_SHARD = 174  # utterances of 12 s at 16 kHz fill a shard


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
    share = min(times["decoding alone"])[0] / min(times["packing"])[0]
    size = sum(file.stat().st_size for file in files) / (seconds * 2 * RATE)
    print(f"\n{what}: {len(files)} files, {seconds / 3600:.2f} h, {100 * size:.0f}% of int16's size, {rounds} rounds\n")
    rows = []
    for name, values in times.items():
        cpu, wall = (min(column) for column in zip(*values, strict=True))
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


def repeat(folder: Path, files: int, seconds: float) -> None:
    """Noise at 8 kHz under the names of that many utterances, 250 a chapter, with 25 words of text for each.

    Only one in a thousand is a file of its own, the others are hard links to it. (WAV decodes fastest.)
    """
    noise = np.random.default_rng(0).integers(-3000, 3000, round(seconds * 8000)).astype(np.int16)
    for number in range(files):
        chapter = folder / f"{number // 5000:03d}" / f"{number // 250:04d}"
        path = chapter / f"{chapter.parent.name}-{chapter.name}-{number:07d}.wav"
        if number % 250 == 0:
            chapter.mkdir(parents=True)
            numbers = range(number, min(number + 250, files))
            lines = (f"{path.stem[:-7]}{each:07d} {'WORD ' * 25}\n" for each in numbers)
            (chapter / f"{chapter.name}.trans.txt").write_text("".join(lines))
        if number % 1000 == 0:
            original = path
            soundfile.write(original, noise, 8000)
        else:
            os.link(original, path)


def empty(out: Path, over: threading.Event) -> None:
    """Give back the disk of every shard that is complete, for a disk that would not hold them all."""
    done: set[str] = set()
    while not over.wait(0.05):
        for part in (out / "packing").glob("[0-9]*.json"):
            if part.stem not in done:
                os.truncate(out / "shards" / f"{part.stem}.npy", 0)
                done.add(part.stem)


def pack_alone(audio: Path, out: Path, seconds: float) -> dict[str, float]:
    """Find, describe and pack `audio` in a process that does nothing else; its memory by its own account."""
    over = threading.Event()
    thread = threading.Thread(target=empty, args=(out, over))
    thread.start()
    command = [sys.executable, "-m", "benchmarks.packing", str(audio), str(out), str(round(seconds * 8000) * A_SHARD)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    printed = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    over.set()
    thread.join()
    if status:
        raise RuntimeError(f"status={status}: packing {audio} failed; its message is above")
    found: dict[str, float] = json.loads(printed)
    return found | {"cpu": usage.ru_utime + usage.ru_stime}


def memories(scratch: Path, most: int, seconds: float) -> None:
    """Peak memory of packing by the number of files. Audio of `seconds` stands for an utterance of 12 s."""
    found: dict[int, dict[str, float]] = {}
    for files in (files for files in FILES if files <= most):
        repeat(scratch / "audio", files, seconds)
        found[files] = pack_alone(scratch / "audio", scratch / "out", seconds)
        for name in ("audio", "out"):
            shutil.rmtree(scratch / name)
    rows = []
    for files, f in found.items():
        parts = [f"{f['loaded']:.0f}", f"{f['peak'] - f['loaded']:.0f}", f"{f['peak']:.0f}"]
        rows.append([f"{files:,}", *parts, f"{f['peak'] / found[FILES[0]]['peak']:.2f}", f"{f['cpu']:.0f}"])
    print(f"\nFiles of {seconds:g} s, {A_SHARD} a shard, one worker.\n")
    print(markdown(["files", "libraries, MiB", "packing, MiB", "peak, MiB", "ratio", "CPU s"], rows))


if __name__ == "__main__":
    import pandas  # noqa: F401 (pyarrow loads it)
    import pyarrow.parquet  # noqa: F401

    loaded = memory("VmRSS")
    audio, out = map(Path, sys.argv[1:3])
    sources = describe(walk_audio(audio), audio)
    pack(sources, out, workers=1, sample_rate=8000, shard_samples=int(sys.argv[3]), progress=False)
    print(json.dumps({"loaded": loaded, "peak": memory("VmHWM")}))  # what the system says afterwards counts the parent
