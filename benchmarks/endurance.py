"""Start-up and memory of whole commands: the first step of a resumed run, and 10,000 steps of training.

    python -m benchmarks.endurance [--only start|memory] [--most 3000000] [--steps 10000]

Every run is a process of its own, as its user starts it: `python -m cpc train`. Start-up: a run of two steps is resumed
for two more; the time from the command to the first of them, imports and MLflow included, and to the command's end, by
the number of utterances in the corpus (3,000,000 of 12 s are 10,000 hours; silent sparse shards). Its floor is a
process that imports torch and mlflow and does nothing. Memory: what the kernel counts for the process every tenth of a
long run of a small model, its first tenth as the measure.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks import large
from benchmarks.measures import markdown
from cpc.config import InputError
from cpc.device import device_name
from data_prep.console import run

app = typer.Typer(add_completion=False)

SIZES = (1_000, 30_000, 300_000, 3_000_000)
TINY = ("model.encoder.channels=32", "model.context.hidden=32", "data.batch_size=4", "data.window_size=8000")
SECTIONS = ("start", "memory")


def train(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """`cpc train` in a folder of its own, its output to be read."""
    command = [sys.executable, "-m", "cpc", "train", *arguments]
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "PYTHONPATH": str(Path.cwd())}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, **pipes)


def finished(process: subprocess.Popen[str]) -> None:
    """Wait for a command; what it said, if it failed."""
    said, _ = process.communicate()
    if process.returncode:
        raise InputError(f"{' '.join(map(str, process.args[1:]))}: {said[-500:]}")  # type: ignore[index]


def recipe(folder: Path, corpus: Path) -> str:
    """A recipe file over all of a corpus."""
    path = folder / "recipe.yaml"
    path.write_text(f"base: classic\ndata: {{corpus: {corpus}, train: null}}\nexperiment: endurance\n")
    return str(path)


def starts(scratch: Path, most: int) -> None:
    """Resuming, by the size of the corpus."""
    rows = []
    floor = min(imports() for _ in range(3))
    for utterances in (size for size in SIZES if size <= most):
        folder = scratch / f"start-{utterances}"
        corpus = large.make(folder / "corpus", utterances, labels=False)
        often = ("training.log_every=1", "training.checkpoint_every=1")
        finished(train(folder, recipe(folder, corpus), *TINY, "--name", "run", "training.max_steps=2", *often))
        begun = time.perf_counter()
        process = train(folder, "--resume", "runs/run", "training.max_steps=4")
        first = next(time.perf_counter() - begun for line in process.stdout or () if "step 3/4" in line)
        finished(process)
        rows.append((utterances, first, time.perf_counter() - begun))
    cells = [
        [
            f"{utterances:,}",
            f"{utterances * 12 / 3600:,.0f}",
            f"{first:.1f}",
            f"{first / rows[0][1]:.2f}",
            f"{first / floor:.1f}",
            f"{whole:.1f}",
        ]
        for utterances, first, whole in rows
    ]
    head = ["utterances", "hours", "resumed, to its first step, s", "ratio", "× the floor", "to its end, s"]
    print(f"\nimporting torch and mlflow, the floor: {floor:.1f} s\n\n" + markdown(head, cells))


def imports() -> float:
    """Seconds of a process that imports the two large libraries of a tracked run."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch, mlflow"], check=True)
    return time.perf_counter() - begun


def resident(process: int) -> float:
    """MiB of a running process."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS:"))) / 1024


def memory(scratch: Path, steps: int) -> None:
    """Resident memory over a long run."""
    folder = scratch / "memory"
    corpus = large.make(folder / "corpus", 10_000, labels=False)
    every = max(1, steps // 10)
    times = (f"training.max_steps={steps}", f"training.log_every={every}", f"training.checkpoint_every={every}")
    process = train(folder, recipe(folder, corpus), *TINY, *times, "--name", "run")
    found: list[tuple[int, float]] = []
    for line in process.stdout or ():
        if "step " in line and f"/{steps}" in line:
            found.append((int(line.split("step ")[1].split("/")[0]), resident(process.pid)))
    finished(process)
    rows = [[f"{step:,}", f"{mib:.0f}", f"{mib / found[0][1]:.3f}"] for step, mib in found]
    print("\n" + markdown(["step", "resident, MiB", "ratio to the first"], rows))


@app.command()
def main(
    only: Annotated[str, typer.Option(help="One section: start or memory.")] = "",
    most: Annotated[int, typer.Option(help="The most utterances to start from.")] = SIZES[-1],
    steps: Annotated[int, typer.Option(min=10, help="Steps of the long run.")] = 10_000,
) -> None:
    """Print the tables."""
    if only and only not in SECTIONS:
        raise InputError(f"only={only}: must be one of {', '.join(SECTIONS)}")
    print(f"{device_name(torch.device('cpu'))}; torch {torch.__version__}")
    with tempfile.TemporaryDirectory(prefix="cpc-endurance-") as scratch:
        if only in ("", "start"):
            starts(Path(scratch), most)
        if only in ("", "memory"):
            memory(Path(scratch), steps)


if __name__ == "__main__":
    run(app)
