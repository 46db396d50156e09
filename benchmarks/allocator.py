"""What keeping freed memory in the process is worth on a CPU: `cpc.distributed.keep_freed_memory` on and off.

    python -m benchmarks.allocator [--rounds 3]

The setting cannot be undone in a process, so each measurement is a process of its own; on and off take turns.
"""

import json
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

from cpc import CPCLoss, Dot, build, load_config
from cpc.config import PRESETS
from cpc.distributed import device_name, keep_freed_memory
from data_prep.console import run

app = typer.Typer(add_completion=False)

WORK = ("inference, 8 × 8 s, fp32", "training step, 8 × 1.28 s, fp32")


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
    model = build(load_config(PRESETS / "small.yaml", ["data.corpus=none"]).model)
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
    """Print seconds with and without, and the ratio round by round."""
    if child:
        print(json.dumps(measure(child == "keep")))
        return
    found: dict[str, list[dict[str, float]]] = {"give back": [], "keep": []}
    for _ in range(rounds):
        for setting, results in found.items():
            command = [sys.executable, "-m", "benchmarks.allocator", "--child", setting]
            results.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    table = Table(title=f"{device_name(torch.device('cpu'))}; torch {torch.__version__}; medians of {rounds} rounds")
    for heading in ("work", "given back, s", "kept, s", "× faster"):
        table.add_column(heading, justify="left" if heading == "work" else "right")
    for work in WORK:
        before, after = ([result[work] for result in found[setting]] for setting in ("give back", "keep"))
        ratio = statistics.median(b / a for b, a in zip(before, after, strict=True))
        table.add_row(work, f"{statistics.median(before):.3f}", f"{statistics.median(after):.3f}", f"{ratio:.2f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    run(app)
