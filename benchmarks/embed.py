"""Embedding files: many short ones against one at a time, one long one against all at once, and how far from the floor.

    python -m benchmarks.embed [--only words|phrases|utterances|long] [--minutes N] [--rounds 3]

The usual way is a loop: read a file, put it through the model as a batch of one, save the array. `cpc embed` is called
as its users call it. A round is a process of its own, in which the usual way comes first (how `cpc embed` sets malloc
cannot be undone); a time, of the clock or of the processor, is the least of the rounds. Files are noise, and no two are
of one length: one at a time plans its convolutions anew for nearly every file, as it does on real recordings.

The floor is the multiplications and additions of the convolutions and the GRU over the rate of a matrix product of the
same precision, measured in the same process.
"""

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import soundfile
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.floor import Machine, context_operations, encoder_operations
from benchmarks.measures import memory
from cpc.config import PRESETS
from cpc.device import device_name, has_bf16, keep_freed_memory
from cpc.evaluation.embed.embed import embed
from cpc.models.cpc import CPC, build
from cpc.training.recipe import load_config
from data_prep.console import run

app = typer.Typer(add_completion=False)

RATE = 16000
# Name → shortest and longest in seconds, number of files.
SHORT = {"words": (0.2, 0.6, 1000), "phrases": (1.0, 2.0, 300), "utterances": (8.0, 16.0, 96)}
MINUTES = (1, 2, 8, 32)
WHOLE = 2  # minutes that go through at once at most: 32 would take 25 GB
Way = Literal["one at a time", "cpc embed", "cpc embed, bf16"]
WAYS: tuple[Way, ...] = ("one at a time", "cpc embed", "cpc embed, bf16")


def model() -> CPC:
    """`classic`, untrained."""
    return build(load_config(PRESETS / "classic.yaml", ["data.corpus=none"]).model).eval()


def synthesise(folder: Path, shortest: float, longest: float, files: int) -> float:
    """Files of noise, 16 bits, no two of one length; the seconds of them all."""
    generator = np.random.default_rng(0)
    lengths = generator.choice(np.arange(round(shortest * RATE), round(longest * RATE) + 1), files, replace=files == 1)
    folder.mkdir(parents=True)
    for number, samples in enumerate(lengths.tolist()):
        with soundfile.SoundFile(folder / f"{number:05d}.wav", "w", RATE, 1) as file:
            for start in range(0, samples, 1 << 20):
                file.write(generator.uniform(-0.3, 0.3, min(1 << 20, samples - start)))
    return float(lengths.sum()) / RATE


def one_at_a_time(subject: CPC, source: Path, out: Path) -> None:
    """The usual way."""
    out.mkdir()
    with torch.inference_mode():
        for path in sorted(source.iterdir()):
            wave, _ = soundfile.read(path, dtype="float32")
            np.save(out / f"{path.stem}.npy", subject(torch.from_numpy(wave)[None]).c[0].numpy())


def measure(subject: CPC, way: Way, source: Path) -> dict[str, float]:
    """Seconds of clock and processor, and MiB at the most beyond those of the process with its model."""
    before, wall, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory(dir=source.parent) as out:
        if way == "one at a time":
            one_at_a_time(subject, source, Path(out, "out"))
        else:
            keep_freed_memory(torch.device("cpu"))  # as `cpc embed` does
            embed(subject, source, Path(out, "out"), precision="bf16" if way.endswith("bf16") else "fp32")
        taken = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return {**taken, "memory": memory("VmHWM") - before}


def measured(ways: Sequence[Way], source: Path) -> dict[str, dict[str, float]]:
    """`measure` of some ways one after the other in a fresh process, and the floors in seconds a second of audio."""
    command = [sys.executable, "-m", "benchmarks.embed", "--child", f"{'|'.join(ways)}:{source}"]
    found: dict[str, dict[str, float]] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return found


def run_child(order: str) -> None:
    """What `measured` asks for, as JSON."""
    names, _, source = order.partition(":")
    subject = model()
    with torch.inference_mode():
        subject(torch.zeros(1, RATE))
    found = {way: measure(subject, way, Path(source)) for way in WAYS if way in names.split("|")}
    device = torch.device("cpu")
    rates = Machine.measure(device, has_bf16(device)).rate  # after the ways, whose memory it would hide
    print(json.dumps({**found, "floor": {name: operations(subject) / rate for name, rate in rates.items()}}))


def operations(subject: CPC) -> float:
    """Multiplications and additions a second of audio, of the convolutions and of the GRU."""
    frames = RATE // subject.hop
    return encoder_operations(subject, frames) + context_operations(subject, frames)


def title(rounds: int) -> str:
    """Machine, versions and how often."""
    return f"{device_name(torch.device('cpu'))}; torch {torch.__version__}; `classic`, layer c; {rounds} rounds"


def short(scratch: Path, rounds: int, only: str) -> None:
    """Throughput on many files."""
    kinds = {only: SHORT[only]} if only else SHORT
    table = Table(title=title(rounds), title_justify="left")
    headings = ("ms a second of audio", "CPU ms", "× real time", "× faster", "× faster, CPU", "× the floor")
    for heading in ("files", "way", *headings):
        table.add_column(heading, justify="left" if heading in ("files", "way") else "right")
    for name, (shortest, longest, count) in kinds.items():
        seconds = synthesise(scratch / name, shortest, longest, count)
        found = [measured(WAYS, scratch / name) for _ in range(rounds)]
        for way in WAYS:
            own, usual = (
                {kind: min(each[name][kind] / seconds for each in found) for kind in ("wall", "cpu")}
                for name in (way, WAYS[0])
            )
            faster = {kind: usual[kind] / own[kind] for kind in own}
            kind = "bf16" if "bf16" in way else "fp32"
            floor = own["wall"] / min(each["floor"].get(kind, math.nan) for each in found)
            times = (f"{1000 * own['wall']:.1f}", f"{1000 * own['cpu']:.1f}", f"{1 / own['wall']:.0f}")
            ratios = (f"{faster['wall']:.2f}", f"{faster['cpu']:.2f}", f"{floor:.2f}")
            table.add_row(f"{count} {name}, {shortest:g} to {longest:g} s", way, *times, *ratios)
        table.add_section()
    Console(width=150).print(table)


def _least(found: list[dict[str, dict[str, float]]], way: Way) -> dict[str, dict[str, float]]:
    """Of some measurements of one way the least times, the most memory, and the lowest floors."""
    times = {kind: min(each[way][kind] for each in found) for kind in ("wall", "cpu")}
    floor = {kind: min(each["floor"][kind] for each in found) for kind in found[0]["floor"]}
    return {way: {**times, "memory": max(each[way]["memory"] for each in found)}, "floor": floor}


def long(scratch: Path, lengths: Sequence[int], rounds: int) -> None:
    """Time and memory on one file by its length."""
    table = Table(title=title(rounds), title_justify="left")
    headings = ("minutes", "at once, MiB", "cpc embed, MiB", "at once, ms a second", "cpc embed, ms a second")
    for heading in (*headings, "× faster", "× the floor"):
        table.add_column(heading, justify="right")
    for minutes in lengths:
        source = scratch / f"long-{minutes}"
        seconds = synthesise(source, 60 * minutes, 60 * minutes, 1)
        ways = WAYS[:2] if minutes <= WHOLE else WAYS[1:2]
        runs = {way: _least([measured([way], source) for _ in range(rounds)], way) for way in ways}
        found = {way: each[way] for way, each in runs.items()}
        peaks = [f"{found[way]['memory']:.0f}" if way in found else "" for way in WAYS[:2]]
        times = [f"{1000 * found[way]['wall'] / seconds:.1f}" if way in found else "" for way in WAYS[:2]]
        ratio = f"{found[WAYS[0]]['wall'] / found[WAYS[1]]['wall']:.2f}" if len(found) == 2 else ""
        floor = found[WAYS[1]]["wall"] / seconds / runs[WAYS[1]]["floor"]["fp32"]
        table.add_row(str(minutes), *peaks, *times, ratio, f"{floor:.2f}")
    Console(width=150).print(table)


@app.command()
def main(
    only: Annotated[str, typer.Option(help="words, phrases, utterances or long. Default: all.")] = "",
    minutes: Annotated[list[int] | None, typer.Option(help="Lengths of the long file. Default: 1, 2, 8, 32.")] = None,
    rounds: Annotated[int, typer.Option(help="Times that the variants take turns.")] = 3,
    child: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Print the tables."""
    if child:
        run_child(child)
        return
    with tempfile.TemporaryDirectory(prefix="cpc-embed-") as scratch:
        if only != "long":
            short(Path(scratch), rounds, only)
        if only in ("", "long"):
            long(Path(scratch), minutes or MINUTES, rounds)


if __name__ == "__main__":
    run(app)
