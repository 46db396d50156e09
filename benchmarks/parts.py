"""The parts of a training step, each beside its floor: data, encoder, context, loss, optimiser.

    python -m benchmarks.parts [--preset classic] [--batch 8] [--rounds 60] [--device cpu]

Setting: `classic` or `small`, windows of 20480 samples, K = 12, M = 128 or all other frames of two windows. The parts
take turns; a time is the least of the rounds. Backward has twice the operations and bytes of forward. The floor of the
loss is what any criterion has to do: the K predictions and the scores of the positive and the M negatives. Where they
are drawn, ours scores all pairs of a group instead, because one large matrix product is faster than many gathered
vectors. Data: the batch is read from a packed corpus in memory and becomes float; moving its megabyte would take a
hundredth of a millisecond, which is no measure.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import large
from benchmarks.floor import Machine, context_operations, encoder_bytes, encoder_operations, in_turns
from cpc.config import PRESETS
from cpc.data.corpus import Corpus
from cpc.data.sampler import WindowConfig, WindowSampler
from cpc.device import device_name, has_bf16, keep_freed_memory
from cpc.losses.cpc import CPCLoss, CPCLossConfig
from cpc.losses.negatives import Grid
from cpc.models.cpc import CPC, Latents, build
from cpc.seeding import torch_generator
from cpc.training.optim import OptimConfig, optimizer
from cpc.training.recipe import load_config
from data_prep.console import run

app = typer.Typer(add_completion=False)

STEPS, SAMPLES = 12, 20480
Work = Callable[[], object]


class Part(NamedTuple):
    """Work with its operations and the bytes that it has to move."""

    work: Work
    operations: float
    moved: float


class Stage:
    """A model, a loss and a batch, cut into parts that can be run alone."""

    def __init__(self, preset: str, batch: int, device: torch.device, precision: str, corpus: Corpus) -> None:
        self.device, self.batch, self.precision = device, batch, precision
        recipe = load_config(PRESETS / f"{preset}.yaml", ["data.corpus=none"])
        self.model: CPC = build(recipe.model).to(device)
        if not isinstance(recipe.loss, CPCLossConfig):
            raise TypeError(preset)
        self.loss = CPCLoss.build(recipe.loss, self.model.dim, self.model.hidden).to(device)
        # What an anchor is scored with at least: itself and its negatives, each once.
        self.keys = 1 + self.loss.negatives.size(Grid(min(batch, self.loss.group_size), self.model.frames(SAMPLES)))
        self.parameters = [*self.model.parameters(), *self.loss.parameters()]
        self.adam = optimizer(OptimConfig(), self.model, self.loss)
        self.windows = WindowSampler(corpus, np.arange(len(corpus)), WindowConfig(SAMPLES, batch), 0)
        self.wave = torch.randn(batch, SAMPLES, device=device) * 0.1
        self.generator = torch_generator(device, 0, "benchmark")
        with self.cast(), torch.no_grad():
            self.z, self.c = self.model(self.wave)
        self.made: dict[str, torch.Tensor] = {}
        self.step_number = 0

    def cast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def data(self) -> None:
        """The batch of the next step, on the device."""
        for _ in self.windows.batches(self.step_number, self.step_number + 1, self.device):
            self.step_number += 1

    def forward(self, name: str) -> None:
        """One part forward, from inputs that stand by."""
        z, c = (t.detach().requires_grad_() for t in (self.z, self.c))
        with self.cast():
            if name == "encoder":
                self.made[name] = self.model.encoder(self.wave)
            elif name == "context":
                self.made[name] = self.model.context(z)
            else:
                self.made[name] = self.loss(Latents(z, c), self.generator).loss

    def backward(self, name: str) -> None:
        """The same part backward."""
        made = self.made.pop(name)
        made.backward(torch.ones_like(made))

    def step(self) -> None:
        """A whole step on a batch that is there."""
        with self.cast():
            loss = self.loss(self.model(self.wave), self.generator).loss
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()

    def parts(self) -> dict[str, Part]:
        """All of them, in the order of a step."""
        frames, width = self.model.frames(SAMPLES), 2 if self.precision == "bf16" else 4
        numbers = float(sum(p.numel() for p in self.parameters))
        anchors = self.batch * (frames - STEPS)
        scored = 2.0 * STEPS * anchors * self.model.dim * (self.model.hidden + self.keys)
        forward = {
            "encoder": (
                self.batch * encoder_operations(self.model, frames),
                self.batch * encoder_bytes(self.model, SAMPLES, width),
            ),
            "context": (self.batch * context_operations(self.model, frames), width * float(2 * self.z.numel())),
            "loss": (scored, width * float(self.z.numel() + self.c.numel()) + 4.0 * STEPS * anchors * self.keys),
        }
        found = {"data": Part(self.data, 0, 0)}
        for name, (operations, moved) in forward.items():
            found[f"{name}, forward"] = Part(lambda n=name: self.forward(n), operations, moved)  # type: ignore[misc]
            found[f"{name}, backward"] = Part(
                lambda n=name: self.backward(n),  # type: ignore[misc]
                2 * operations,
                2 * moved,
            )
        found["optimiser"] = Part(self.adam.step, 0, 7 * 4 * numbers)  # reads p, g, m, v; writes p, m, v
        whole = [
            sum(values) for values in zip(*(part[1:] for name, part in found.items() if name != "data"), strict=True)
        ]
        return found | {"whole step": Part(self.step, *whole)}


@app.command()
def main(
    preset: Annotated[Literal["classic", "small"], typer.Option()] = "classic",
    batch: Annotated[int, typer.Option(min=1, help="Windows a step.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in which the parts take turns.")] = 60,
    device: Annotated[str, typer.Option()] = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    """Print a table for each precision."""
    chosen = torch.device(device)
    keep_freed_memory(chosen)
    machine = Machine.measure(chosen, has_bf16(chosen))
    print(f"{device_name(chosen)}; torch {torch.__version__}; {machine}")
    for precision in machine.rate:
        with tempfile.TemporaryDirectory() as scratch:
            stage = Stage(
                preset, batch, chosen, precision, Corpus.open(large.make(Path(scratch, "corpus"), 1000, labels=False))
            )
            stage.step()  # so that every parameter has a gradient
            parts = stage.parts()
            taken = in_turns({name: part.work for name, part in parts.items()}, rounds, chosen)
        show(preset, batch, precision, machine, parts, taken)


def show(
    preset: str, batch: int, precision: str, machine: Machine, parts: dict[str, Part], taken: dict[str, float]
) -> None:
    """Milliseconds, share of the whole step, the floor and how far from it."""
    table = Table(title=f"{preset}, batch {batch} × {SAMPLES}, {precision}", title_justify="left")
    for heading in ("part", "ms", "of the step", "floor, ms", "bound by", "× the floor"):
        table.add_column(heading, justify="left" if heading in ("part", "bound by") else "right")
    for name, part in parts.items():
        cells = [name, f"{1e3 * taken[name]:.2f}", f"{taken[name] / taken['whole step']:.1%}"]
        if floor := machine.floor(part.operations, part.moved, precision):
            bound = "operations" if part.operations / machine.rate[precision] >= floor else "memory"
            cells += [f"{1e3 * floor:.2f}", bound, f"{taken[name] / floor:.1f}"]
        table.add_row(*cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    run(app)
