"""What two settings of memory are worth on a CPU: huge pages (the command `cpc`), freed memory kept (`cpc train`).

    python -m benchmarks.allocator [--rounds 3]

Neither setting can be undone in a process, so each measurement is a process of its own; the settings take turns.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from cpc.config import PRESETS
from cpc.device import device_name, keep_freed_memory
from cpc.losses.cpc import CPCLoss
from cpc.losses.scores import Dot
from cpc.models.cpc import build
from cpc.training.recipe import load_config
from data_prep.console import run

app = typer.Typer(add_completion=False)

WORK = ("inference, 8 × 8 s, fp32", "training step, 8 × 1.28 s, fp32")
PLAIN, HUGE, KEPT = "torch as it comes", "huge pages", "huge pages, freed memory kept"


def median_seconds(work: Callable[[], object], times: int = 5) -> float:
    """The median of several calls, after one that is not counted."""
    work()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def measure(keep: bool) -> dict[str, float]:
    """Seconds of each kind of work in this process."""
    if keep:
        keep_freed_memory(torch.device("cpu"))
    model = build(load_config(PRESETS / "classic.yaml", ["data.corpus=none"]).model)
    loss = CPCLoss(12, model.dim, model.hidden, score=Dot(1 / 16))
    long, short = torch.randn(8, 128_000) * 0.1, torch.randn(8, 20480) * 0.1

    def infer() -> None:
        with torch.inference_mode():
            model(long)

    def train() -> None:
        model.zero_grad(set_to_none=True)
        loss(model(short)).loss.backward()

    return dict(zip(WORK, (median_seconds(infer), median_seconds(train)), strict=True))


@app.command()
def main(
    rounds: Annotated[int, typer.Option(help="Times that both settings take a turn.")] = 3,
    child: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Print seconds under each setting, the least of the rounds, and times faster than torch as it comes."""
    if child:
        print(json.dumps(measure(child == KEPT)))
        return
    found: dict[str, list[dict[str, float]]] = {PLAIN: [], HUGE: [], KEPT: []}
    for _ in range(rounds):
        for setting, results in found.items():
            command = [sys.executable, "-m", "benchmarks.allocator", "--child", setting]
            environment = {**os.environ, "THP_MEM_ALLOC_ENABLE": "0" if setting == PLAIN else "1"}
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
            results.append(json.loads(done.stdout))
    table = Table(title=f"{device_name(torch.device('cpu'))}; torch {torch.__version__}; the least of {rounds} rounds")
    for heading in ("work", "memory", "s", "× faster"):
        table.add_column(heading, justify="left" if heading in ("work", "memory") else "right")
    for work in WORK:
        least = {setting: min(result[work] for result in results) for setting, results in found.items()}
        for setting, taken in least.items():
            table.add_row(work, setting, f"{taken:.3f}", f"{least[PLAIN] / taken:.2f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    run(app)
