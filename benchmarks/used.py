"""A full training step as each is used: the usual criterion with torch as it comes, ours with memory kept by malloc.

    python -m benchmarks.used [--batch 8] [--rounds 6] [--bf16]

the command `cpc` lays large tensors in huge pages, and `cpc train` keeps freed memory in the process
(`cpc.device.keep_freed_memory`); code that gathers vectors does neither. The settings cannot be undone in a
process, so every measurement is a process of its own. The two take turns; times are the least of the rounds, and beside
their ratio stand the lowest and the highest of one round. `benchmarks.step` compares both in one process, where huge
pages serve both.
"""

import json
import os
import statistics
import subprocess
import sys
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.floor import seconds
from benchmarks.step import SAMPLES, USUAL, criteria
from cpc.device import device_name, keep_freed_memory
from cpc.training.optim import OptimConfig, optimizer
from data_prep.console import run

app = typer.Typer(add_completion=False)

OURS = "picked scores"
STEPS = {USUAL: 3, OURS: 10}  # after one that is not counted


def measure(name: str, batch: int, bf16: bool) -> float:
    """The median seconds of a step in this process."""
    device = torch.device("cpu")
    if name == OURS:
        keep_freed_memory(device)
    model, loss, both = criteria(device)
    adam = optimizer(OptimConfig(), model, loss)
    wave = torch.randn(batch, SAMPLES) * 0.1

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            value = both[name](model(wave))
        adam.zero_grad()
        value.backward()
        adam.step()

    step()
    return statistics.median(seconds(step, device) for _ in range(STEPS[name]))


@app.command()
def main(
    batch: Annotated[int, typer.Option(help="Windows a step.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in which the two take turns.")] = 6,
    bf16: Annotated[bool, typer.Option(help="Ours in bf16; the usual one stays in fp32.")] = False,
    child: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Print the seconds of both, and their ratio."""
    if child:
        print(json.dumps(measure(child, batch, bf16 and child == OURS)))
        return
    found: dict[str, list[float]] = {USUAL: [], OURS: []}
    for _ in range(rounds):
        for name, taken in found.items():
            command = [sys.executable, "-m", "benchmarks.used", "--batch", str(batch), "--child", name]
            environment = {**os.environ, "THP_MEM_ALLOC_ENABLE": "0" if name == USUAL else "1"}
            flags = ["--bf16"] if bf16 else []
            done = subprocess.run([*command, *flags], env=environment, stdout=subprocess.PIPE, check=True)
            taken.append(json.loads(done.stdout))
    ratios = sorted(usual / ours for usual, ours in zip(*found.values(), strict=True))
    title = f"{device_name(torch.device('cpu'))}; torch {torch.__version__}; batch {batch} × {SAMPLES}; {rounds} rounds"
    table = Table(title=title, title_justify="left")
    for heading in ("criterion", "step, s", "× faster", "from", "to"):
        table.add_column(heading, justify="left" if heading == "criterion" else "right")
    table.add_row(f"{USUAL}, fp32, torch as it comes", f"{min(found[USUAL]):.3f}", "1.0", "", "")
    spread = (f"{min(found[USUAL]) / min(found[OURS]):.1f}", f"{ratios[0]:.1f}", f"{ratios[-1]:.1f}")
    table.add_row(f"{OURS}, {'bf16' if bf16 else 'fp32'}, as trained", f"{min(found[OURS]):.3f}", *spread)
    Console(width=120).print(table)


if __name__ == "__main__":
    run(app)
