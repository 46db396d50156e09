"""How cost grows: the loss alone over batches and negatives, the training step over batches and lengths of windows.

    python -m benchmarks.scaling [--only batch|negatives|length] [--most 256] [--memory 3] [--rounds 3]

Setting: `classic`, windows of 20480 samples, K = 12, M = 128 where nothing else is said. The usual criterion gathers
vectors; it is left out where it would hold more than `--memory` GB. Its times and ours are taken in turns, the least of
the rounds. Linear cost shows as a constant number in the columns "a window" and "a negative".
"""

from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.floor import Machine, context_operations, encoder_operations, in_turns
from benchmarks.step import NEGATIVES, SAMPLES, STEPS, peak_bytes
from cpc.config import PRESETS, InputError
from cpc.device import device_name, has_bf16, keep_freed_memory
from cpc.losses.cpc import CPCLoss
from cpc.losses.negatives import Uniform
from cpc.losses.scores import Dot
from cpc.models.cpc import CPC, Latents, build
from cpc.seeding import torch_generator
from cpc.training.optim import OptimConfig, optimizer
from cpc.training.recipe import load_config
from data_prep.console import run
from tests.reference import gathered_criterion

app = typer.Typer(add_completion=False)

BATCHES = (8, 16, 32, 64, 128, 256)
COUNTS = (16, 32, 64, 128, 256, 512)
LENGTHS = (1, 2, 4)  # times SAMPLES
SECTIONS = ("batch", "negatives", "length")


class Bench:
    """What every curve needs: a model, its latents of any batch, both criteria."""

    def __init__(self, device: torch.device, rounds: int, most_bytes: float) -> None:
        self.device, self.rounds, self.most_bytes = device, rounds, most_bytes
        self.model: CPC = build(load_config(PRESETS / "classic.yaml", ["data.corpus=none"]).model).to(device)
        self.machine = Machine.measure(device, has_bf16(device))
        self.precision = list(self.machine.rate)[-1]
        self.generator = torch_generator(device, 0, "benchmark")

    def criterion(self, negatives: int) -> CPCLoss:
        return CPCLoss(STEPS, self.model.dim, self.model.hidden, Uniform(negatives), score=Dot(1 / 16)).to(self.device)

    def latents(self, batch: int) -> Latents:
        shape = batch, self.model.frames(SAMPLES)
        made = (torch.randn(*shape, dim, device=self.device) for dim in (self.model.dim, self.model.hidden))
        return Latents(*(t.requires_grad_() for t in made))

    def gathered_bytes(self, batch: int, negatives: int) -> float:
        """What the usual criterion holds at the least: the vectors of every negative of every step, once."""
        return 4.0 * STEPS * batch * (self.model.frames(SAMPLES) - STEPS) * negatives * self.model.dim

    def loss_alone(self, batch: int, negatives: int) -> dict[str, tuple[float, int]]:
        """Seconds and peak bytes of forward and backward of our criterion, and of the usual one where it fits."""
        ours, latents = self.criterion(negatives), self.latents(batch)
        both = {
            "ours": lambda given: ours(given, self.generator).loss,
            "usual": lambda given: gathered_criterion(*given, ours.heads.weight / 16, negatives, self.generator),
        }
        if self.gathered_bytes(batch, negatives) > self.most_bytes:
            del both["usual"]
        works = {name: (lambda c=criterion: c(latents).backward()) for name, criterion in both.items()}
        taken = in_turns(works, self.rounds, self.device)  # type: ignore[arg-type]
        return {n: (taken[n], peak_bytes(criterion, batch, self.model, self.device)) for n, criterion in both.items()}

    def floor(self, batch: int, negatives: int) -> float:
        """Seconds of any criterion: K predictions and 1 + M scores an anchor, forward and twice that backward."""
        anchors = batch * (self.model.frames(SAMPLES) - STEPS)
        operations = 3 * 2.0 * STEPS * anchors * self.model.dim * (self.model.hidden + 1 + negatives)
        return self.machine.floor(operations, 3 * 4.0 * STEPS * anchors * (1 + negatives), "fp32")

    def step(self, batch: int, samples: int) -> tuple[float, float]:
        """Seconds of a training step in the fastest precision, and its floor."""
        ours = self.criterion(NEGATIVES)
        adam = optimizer(OptimConfig(), self.model, ours)
        wave = torch.randn(batch, samples, device=self.device) * 0.1

        def work() -> None:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                loss = ours(self.model(wave), self.generator).loss
            adam.zero_grad()
            loss.backward()
            adam.step()

        frames = self.model.frames(samples)
        operations = encoder_operations(self.model, frames) + context_operations(self.model, frames)
        operations += 2.0 * STEPS * (frames - STEPS) * self.model.dim * (self.model.hidden + 1 + NEGATIVES)
        floor = self.machine.floor(3 * batch * operations, 0, self.precision)
        return in_turns({"step": work}, self.rounds, self.device)["step"], floor


def new_table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def loss_row(found: dict[str, tuple[float, int]], floor: float, per: float) -> list[str]:
    """Of one size: ours, a unit of what grows, memory; the usual way and both ratios where it fits."""
    (taken, peak), usual = found["ours"], found.get("usual")
    own = [f"{1e3 * taken:.1f}", f"{1e3 * taken / per:.3f}", f"{peak / 1e6:.0f}", f"{taken / floor:.1f}"]
    beside = (f"{usual[0] / taken:.1f}", f"{usual[1] / peak:.0f}") if usual else ("does not fit", "")
    return [*own, *beside]


HEADINGS = ("peak, MB", "× the floor", "× faster than gathered", "× less memory")


def batches(bench: Bench, most: int) -> list[Table]:
    """The loss alone and the whole step over the batch."""
    alone = new_table("loss alone, fp32, over the batch", "batch", "ms", "ms a window", *HEADINGS)
    whole = new_table(f"training step, {bench.precision}, over the batch", "batch", "ms", "× real time", "× the floor")
    for batch in (size for size in BATCHES if size <= most):
        found = bench.loss_alone(batch, NEGATIVES)
        alone.add_row(str(batch), *loss_row(found, bench.floor(batch, NEGATIVES), batch))
        taken, floor = bench.step(batch, SAMPLES)
        whole.add_row(
            str(batch), f"{1e3 * taken:.0f}", f"{batch * SAMPLES / 16000 / taken:.0f}", f"{taken / floor:.1f}"
        )
    return [alone, whole]


def negatives(bench: Bench) -> list[Table]:
    """The loss alone over the number of negatives."""
    table = new_table("loss alone, fp32, batch 8, over negatives", "negatives", "ms", "ms a negative", *HEADINGS)
    for count in COUNTS:
        table.add_row(str(count), *loss_row(bench.loss_alone(8, count), bench.floor(8, count), count))
    return [table]


def lengths(bench: Bench) -> list[Table]:
    """The whole step over the length of the windows, the same audio a step."""
    title = f"training step, {bench.precision}, over the length of a window (10 s of audio a step)"
    table = new_table(title, "window, s", "batch", "ms", "× real time", "× the floor")
    for times in LENGTHS:
        batch, samples = 8 // times, SAMPLES * times
        taken, floor = bench.step(batch, samples)
        speed = (f"{1e3 * taken:.0f}", f"{batch * samples / 16000 / taken:.0f}", f"{taken / floor:.1f}")
        table.add_row(f"{samples / 16000:.2f}", str(batch), *speed)
    return [table]


@app.command()
def main(
    only: Annotated[str, typer.Option(help="One section: batch, negatives or length.")] = "",
    most: Annotated[int, typer.Option(min=8, help="The largest batch.")] = BATCHES[-1],
    memory: Annotated[
        float, typer.Option(help="GB of vectors that the usual criterion may gather; it takes thrice that.")
    ] = 3,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in which the variants take turns.")] = 3,
    device: Annotated[str, typer.Option()] = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    """Print the tables."""
    if only and only not in SECTIONS:
        raise InputError(f"only={only}: must be one of {', '.join(SECTIONS)}")
    chosen = torch.device(device)
    keep_freed_memory(chosen)
    bench = Bench(chosen, rounds, memory * 1e9)
    print(f"{device_name(chosen)}; torch {torch.__version__}; {bench.machine}")
    curves = {
        "batch": lambda: batches(bench, most),
        "negatives": lambda: negatives(bench),
        "length": lambda: lengths(bench),
    }
    for table in (table for name in ((only,) if only else SECTIONS) for table in curves[name]()):
        Console(width=120).print(table)


if __name__ == "__main__":
    run(app)
