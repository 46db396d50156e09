"""Milliseconds that each augmentation takes for a batch, beside the training step that it is added to.

    python -m benchmarks.augment [--batch 8] [--rounds 20] [--device cpu]

Windows of 20480 samples; the step is that of the preset `classic` (forward, loss, backward, Adam), in bf16 where
the machine has it. Augmentations and the step take turns; a time is the least of the rounds. On the CPU it is that
which the process itself used, on however many threads, so that other work on the machine does not count; on a GPU it is
wall time between two synchronisations. A measured room and noise from a folder are read from files of random numbers.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cpc.augment.compose import Augmentation, AugmentConfig, views
from cpc.augment.crop import Crop, TimeDropout
from cpc.augment.filters import BandRejection, LowPass
from cpc.augment.gain import Gain, PolarityInversion
from cpc.augment.noise import ColouredNoise, FolderNoise
from cpc.augment.pitch import PitchShift, TimeStretch
from cpc.augment.reverb import MeasuredReverb, SyntheticReverb
from cpc.config import PRESETS
from cpc.device import device_name, has_bf16, keep_freed_memory
from cpc.losses.cpc import CPCLoss
from cpc.models.cpc import build
from cpc.seeding import torch_generator
from cpc.training.optim import optimizer
from cpc.training.recipe import load_config
from data_prep.console import run

app = typer.Typer(add_completion=False)

SAMPLES = 20480
PAST, STEP = "pitch, noise and room on the past", "training step"


def parts(folder: Path) -> list[Augmentation]:
    """One of each kind; `folder` gets what those that read files need."""
    rng = np.random.default_rng(0)
    for name, samples in (("noise", 160_000), ("rooms", 16_000)):
        (folder / name).mkdir()
        soundfile.write(folder / name / "one.wav", rng.normal(0, 0.1, samples), 16000)
    simple: list[Augmentation] = [Crop(16000), TimeDropout(), Gain(), PolarityInversion(), LowPass(), BandRejection()]
    noise = [ColouredNoise(), FolderNoise(str(folder / "noise"))]
    return [*simple, *noise, MeasuredReverb(str(folder / "rooms")), SyntheticReverb(), TimeStretch(), PitchShift()]


def training_step(batch: int, device: torch.device) -> Callable[..., object]:
    """A whole update of the preset `classic`, on one view of the windows or on two."""
    recipe = load_config(PRESETS / "classic.yaml", ["data.corpus=none", f"data.batch_size={batch}"])
    model = build(recipe.model).to(device)
    loss = CPCLoss.build(recipe.loss, model.dim, model.hidden).to(device)
    adam = optimizer(recipe.optim, model, loss)
    generator = torch_generator(device, 0, "negatives")

    def step(wave: Tensor, future: Tensor | None = None) -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_bf16(device)):
            value = loss(model(wave, future=future), generator).loss
        adam.zero_grad()
        value.backward()
        adam.step()

    return step


def milliseconds(work: Callable[[Tensor], object], wave: Tensor) -> float:
    """Time of one call: of the process on the CPU, of the clock on a GPU."""
    if wave.device.type != "cuda":
        start = time.process_time()
        work(wave)
        return 1000 * (time.process_time() - start)
    torch.cuda.synchronize()
    start = time.perf_counter()
    work(wave)
    torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start)


@app.command()
def main(
    batch: Annotated[int, typer.Option(help="Windows a batch.")] = 8,
    rounds: Annotated[int, typer.Option(help="Rounds in which all take turns.")] = 20,
    device: Annotated[str, typer.Option()] = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    """Print the table."""
    chosen = torch.device(device)
    keep_freed_memory(chosen)
    wave = torch.randn(batch, SAMPLES, generator=torch.Generator().manual_seed(0)).to(chosen) * 0.1
    generator = torch_generator(chosen, 0, "benchmark")
    past = AugmentConfig(past=(PitchShift(), ColouredNoise(), SyntheticReverb()))
    with tempfile.TemporaryDirectory() as folder:
        work: dict[str, Callable[[Tensor], object]] = {
            part.kind: lambda wave, part=part: part(wave, generator)  # type: ignore[misc]
            for part in parts(Path(folder))
        }
        step = training_step(batch, chosen)
        work |= {PAST: lambda wave: views(wave, past, 0, 0), STEP: step, f"{STEP}, two views": lambda w: step(w, w)}
        times: dict[str, list[float]] = {name: [] for name in work}
        for number in range(rounds + 2):
            for name, call in work.items():
                taken = milliseconds(call, wave)
                if number >= 2:  # the first rounds warm up
                    times[name].append(taken)
    show({name: min(found) for name, found in times.items()}, batch, chosen)


def show(least: dict[str, float], batch: int, device: torch.device) -> None:
    """The table, with shares of the training step."""
    precision = "bf16" if has_bf16(device) else "fp32"
    title = f"{device_name(device)}; torch {torch.__version__}; batch {batch} × {SAMPLES}; step in {precision}"
    table = Table(title=title, min_width=len(title))
    table.add_column("augmentation")
    for heading in ("ms", "share of the step"):
        table.add_column(heading, justify="right")
    for name, taken in least.items():
        table.add_row(name, f"{taken:.2f}", f"{taken / least[STEP]:.1%}")
    Console(width=120).print(table)


if __name__ == "__main__":
    run(app)
