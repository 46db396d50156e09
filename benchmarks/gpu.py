"""Training on a GPU as `cpc train` does it: throughput, distance from the floor, idle time, and which kernels take it.

    python -m benchmarks.gpu [--steps 50] [--memory 40] [--device cuda]

Whole steps of a job (windows, crops, model, loss, optimiser, metrics) on 1.7 hours of noise, held on the device, in the
precision that `auto` chooses. Idle is the share of ten profiled steps in which no kernel runs. The floor: operations
over the rate of matrix products, or the bytes that the layers read and write once over the bandwidth, both measured
here. The criterion alone stands beside the one that gathers vectors, at the largest batch at which that one holds at
most `--memory` GB. With `--device cpu` and few steps it shows that the script works, without kernels.
"""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks import large
from benchmarks.floor import Machine, context_operations, encoder_bytes, encoder_operations, seconds
from benchmarks.scaling import BATCHES, NEGATIVES, Bench
from cpc.config import PRESETS
from cpc.data.corpus import HEADER
from cpc.device import device as find_device
from cpc.device import device_name, has_bf16
from cpc.distributed import World
from cpc.losses.cpc import CPCLoss
from cpc.training.recipe import load_config
from cpc.training.trainer import Trainer
from data_prep.console import run

app = typer.Typer(add_completion=False)

WARM_UP, PROFILED, KERNELS = 10, 10, 12


class Case(NamedTuple):
    """What is trained, and the goal in times real time on an H100, where there is one."""

    preset: str
    batch: int
    graph: bool = False
    goal: int | None = None
    compile: bool = False


CASES = (
    Case("small", 8, goal=6_000),
    Case("small", 8, graph=True, goal=6_000),
    Case("small", 256, goal=45_000),
    Case("small", 256, graph=True, goal=45_000),
    Case("small", 256, goal=45_000, compile=True),
    Case("small", 256, graph=True, goal=45_000, compile=True),
    Case("paper", 64, goal=12_000),
    Case("paper", 64, goal=12_000, compile=True),
)


class Trace(NamedTuple):
    """Of some steps: the share of the time in which nothing runs, and the microseconds of each kernel."""

    idle: float
    kernels: Counter[str]


def noise(path: Path) -> Path:
    """500 utterances of noise: zeros would take less power, and let a GPU run faster than it does on speech."""
    corpus = large.make(path, 500, labels=False)
    generator = np.random.default_rng(0)
    for shard in sorted(corpus.glob("shards/*.npy")):
        samples = np.memmap(shard, np.int16, "r+", HEADER)
        samples[:] = generator.integers(-8000, 8000, len(samples), dtype=np.int16)
    return corpus


def start(case: Case, corpus: Path, device: torch.device) -> Trainer:
    """The job of a case, its corpus on the device where that is one of its own."""
    settings = [f"data.corpus={corpus}", "data.val_fraction=0", f"data.batch_size={case.batch}"]
    settings += [f"training.device={device.type}", f"training.cuda_graph={case.graph}".lower()]
    settings += [f"training.compile={case.compile}".lower()]
    job = Trainer.start(load_config(PRESETS / f"{case.preset}.yaml", settings), World(device))
    job.hold()
    job.train(True)
    return job


def steps(job: Trainer, count: int) -> None:
    for step, waveform in job.windows.batches(job.step, job.step + count, job.device):
        job.update(step, waveform)


def floor(job: Trainer, machine: Machine) -> float:
    """Seconds of a step below which nothing can go: forward, and twice that backward."""
    model, loss, data = job.model, job.criterion, job.recipe.data
    if not isinstance(loss, CPCLoss):
        raise TypeError(f"loss={type(loss).__name__}: must be CPCLoss")
    frames, width = model.frames(data.window_size), 2 if job.bf16 else 4
    operations = encoder_operations(model, frames) + context_operations(model, frames)
    operations += (
        2.0 * loss.prediction_steps * (frames - loss.prediction_steps) * model.dim * (model.hidden + 1 + NEGATIVES)
    )
    moved = encoder_bytes(model, data.window_size, width)
    return machine.floor(3 * data.batch_size * operations, 3 * data.batch_size * moved, "bf16" if job.bf16 else "fp32")


def traced(job: Trainer) -> Trace | None:
    """What the GPU does in some steps; None where there is no GPU."""
    if job.device.type != "cuda":
        return None
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        steps(job, PROFILED)
        torch.cuda.synchronize()
    events = sorted(
        (e.time_range.start, e.time_range.end, e.name)
        for e in recorded.events() or ()
        if e.device_type == DeviceType.CUDA
    )
    busy, reached = 0.0, events[0][0]
    kernels: Counter[str] = Counter()
    for begin, end, name in events:
        busy += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
        kernels[name] += round(end - begin)
    return Trace(1 - busy / (reached - events[0][0]), kernels)


def throughput(corpus: Path, machine: Machine, device: torch.device, count: int, most: int) -> Trace | None:
    """Print the table of all cases; gives the trace of the plain one at the largest batch."""
    table = Table(title=f"{device_name(device)}; torch {torch.__version__}; {machine}", title_justify="left")
    numbered = ("ms", "× real time", "goal", "floor, ms", "× the floor", "idle")
    for heading in ("preset", "batch", "CUDA graph", "compiled", *numbered):
        table.add_column(heading, justify="left" if heading == "preset" else "right")
    kept = None
    for case in CASES:
        if case.batch > most or ((case.graph or case.compile) and device.type != "cuda"):
            continue
        job = start(case, corpus, device)
        steps(job, min(WARM_UP, count))
        taken = seconds(lambda job=job: steps(job, count), device) / count  # type: ignore[misc]
        least, trace = floor(job, machine), traced(job)
        fast = f"{case.batch * job.recipe.data.window_size / job.corpus.sample_rate / taken:,.0f}"
        goal, idle = f"{case.goal:,}" if case.goal else "", f"{trace.idle:.1%}" if trace else ""
        numbers = (f"{1e3 * taken:.2f}", fast, goal, f"{1e3 * least:.2f}", f"{taken / least:.1f}", idle)
        ways = ["yes" if way else "" for way in (case.graph, case.compile)]
        table.add_row(case.preset, str(case.batch), *ways, *numbers)
        kept = trace if trace and case == Case("small", 256, goal=45_000) else kept
        del job
    Console(width=150).print(table)
    return kept


def criterion(device: torch.device, memory: float, most: int) -> None:
    """Print how much faster the criterion alone is than the one that gathers vectors."""
    bench = Bench(device, 5, memory * 1e9)
    fitting = [batch for batch in BATCHES if batch <= most and bench.gathered_bytes(batch, NEGATIVES) <= memory * 1e9]
    if not fitting:
        print(f"criterion: nothing that gathers vectors fits in {memory:g} GB")
        return
    found = bench.loss_alone(fitting[-1], NEGATIVES)
    (ours, own), (usual, held) = found["ours"], found["usual"]
    print(f"criterion alone, fp32, batch {fitting[-1]}: {1e3 * ours:.2f} ms, {usual / ours:.1f} × as fast as gathered")
    print(f"vectors ({1e3 * usual:.1f} ms), with {own / 1e6:,.0f} MB where that one holds {held / 1e6:,.0f} MB")


@app.command()
def main(
    steps: Annotated[int, typer.Option(min=1, help="Steps that are timed.")] = 50,
    memory: Annotated[float, typer.Option(help="GB that the usual criterion may hold.")] = 40,
    most: Annotated[int, typer.Option(help="The largest batch.")] = 256,
    device: Annotated[str, typer.Option()] = "cuda",
) -> None:
    """Print the tables."""
    chosen = find_device(device)
    machine = Machine.measure(chosen, has_bf16(chosen))
    with tempfile.TemporaryDirectory(prefix="cpc-gpu-") as scratch:
        trace = throughput(noise(Path(scratch, "corpus")), machine, chosen, steps, most)
    criterion(chosen, memory, most)
    if trace:
        table = Table(title="kernels of ten steps, small, batch 256", title_justify="left")
        table.add_column("kernel")
        table.add_column("share", justify="right")
        for name, taken in trace.kernels.most_common(KERNELS):
            table.add_row(name[:100], f"{taken / trace.kernels.total():.1%}")
        Console(width=150).print(table)


if __name__ == "__main__":
    run(app)
