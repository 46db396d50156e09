"""A training step beside a program that takes a core for itself, by threads and by how threads wait.

    python -m benchmarks.neighbour [--rounds 3] [--precision fp32]

Threads of a parallel region wait for each other. As torch comes they look again and again before they sleep (300,000
looks of libgomp), which on a busy machine takes the time that the thread waited for would need; asleep at once, they
are slow to wake where the machine is free. One thread for each free core is what loses least: `cpc train` says so
where other programs take cores. Preset `small`, 8 windows. Every measurement is a process of its own, because the
number of looks is read when the library of threads is loaded; all take turns, times are medians of the steps, the
least of the rounds.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from typing import Annotated, Literal

import torch
import typer
from rich.console import Console
from rich.table import Table

from cpc.device import device_name, keep_freed_memory
from cpc.losses.cpc import CPCLoss
from cpc.models.cpc import build
from cpc.training.optim import optimizer
from cpc.training.recipe import load_config
from data_prep.console import run

app = typer.Typer(add_completion=False)

STEPS = 15  # after three that are not counted
BUSY = "while True: pass"


def measure(bf16: bool) -> float:
    """The median seconds of a step in this process."""
    keep_freed_memory(torch.device("cpu"))
    recipe = load_config("small", ["data.corpus=none"])
    model = build(recipe.model)
    loss = CPCLoss.build(recipe.loss, model.dim, model.hidden)
    adam = optimizer(recipe.optim, model, loss)
    wave = torch.randn(recipe.data.batch_size, recipe.data.window_size) * 0.1
    taken = []
    for _ in range(STEPS + 3):
        begun = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss(model(wave)).loss
        adam.zero_grad()
        value.backward()
        adam.step()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[3:])


@app.command()
def main(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in which all take turns.")] = 3,
    precision: Annotated[Literal["fp32", "bf16"], typer.Option()] = "fp32",
    child: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Print the seconds of a step, alone and beside a neighbour."""
    if child:
        print(json.dumps(measure(precision == "bf16")))
        return
    cores = len(os.sched_getaffinity(0))
    ways = [(1, ""), *((cores, looks) for looks in ("", "0", "1000", "10000", "50000"))]  # one thread waits for nobody
    found: dict[tuple[int, str, bool], list[float]] = {}
    command = [sys.executable, "-m", "benchmarks.neighbour", "--child", "--precision", precision]
    for _ in range(rounds):
        for busy in (False, True):
            neighbour = subprocess.Popen([sys.executable, "-c", BUSY]) if busy else None
            try:
                for threads, looks in ways:
                    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
                    if looks:
                        environment["GOMP_SPINCOUNT"] = looks
                    environment["THP_MEM_ALLOC_ENABLE"] = "1"
                    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
                    found.setdefault((threads, looks, busy), []).append(json.loads(done.stdout))
            finally:
                if neighbour:
                    neighbour.kill()
                    neighbour.wait()
    title = f"{device_name(torch.device('cpu'))}, {cores} cores; torch {torch.__version__}; small, {precision}"
    table = Table(title=title, title_justify="left")
    for heading in ("threads", "looks", "alone, s", "beside a neighbour, s", "× one thread's", "from", "to"):
        table.add_column(heading, justify="right")
    one = found[1, "", True]
    for threads, looks in ways:
        alone, beside = (found[threads, looks, busy] for busy in (False, True))
        ratios = sorted(own / first for own, first in zip(beside, one, strict=True))
        cells = [f"{min(alone):.3f}", f"{min(beside):.3f}", f"{min(beside) / min(one):.2f}"]
        table.add_row(str(threads), looks or "as it comes", *cells, f"{ratios[0]:.2f}", f"{ratios[-1]:.2f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    run(app)
