"""A full training step with our criterion against the usual one that gathers negative vectors, in the same run.

    python -m benchmarks.step [--batch 8] [--rounds 8] [--keep-memory]

Like is compared with like: our criterion draws negatives for each step k, and so does the usual one; a row shows it
with one set of negatives shared by all steps as well, which is cheaper.

Setting: `classic` (256 channels, channel norm, GRU 256), windows of 20480 samples, K = 12, M = 128 negatives.
A step is forward, loss, backward and Adam. The variants take turns, a second each at least, of which the median counts;
their times are the least of the rounds: what other work on the host adds is never negative, and so ratios repeat.
The peak memory of a criterion is what it allocates between the latents and the end of its backward pass, as the
allocator of torch reports it, without the latents themselves.
"""

from collections.abc import Callable
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.floor import settled
from cpc.config import PRESETS
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

STEPS, NEGATIVES, SAMPLES = 12, 128, 20480
USUAL = "gathered vectors"
Criterion = Callable[[Latents], Tensor]


def criteria(device: torch.device) -> tuple[CPC, CPCLoss, dict[str, Criterion]]:
    """The model, and both criteria over the same heads."""
    recipe = load_config(PRESETS / "classic.yaml", ["data.corpus=none"])
    model = build(recipe.model).to(device)
    loss = CPCLoss(STEPS, model.dim, model.hidden, Uniform(NEGATIVES), score=Dot(1 / 16)).to(device)
    generator = torch_generator(device, 0, "benchmark")
    return (
        model,
        loss,
        {
            USUAL: lambda latents: gathered_criterion(*latents, loss.heads.weight / 16, NEGATIVES, generator),
            "gathered, one set for all k": lambda latents: gathered_criterion(
                *latents, loss.heads.weight / 16, NEGATIVES, generator, shared=True
            ),
            "picked scores": lambda latents: loss(latents, generator).loss,
        },
    )


def peak_bytes(criterion: Criterion, batch: int, model: CPC, device: torch.device) -> int:
    """The most that forward and backward of a criterion hold at once, above what was there before."""
    z = torch.randn(batch, model.frames(SAMPLES), model.dim, device=device, requires_grad=True)
    c = torch.randn(batch, model.frames(SAMPLES), model.hidden, device=device, requires_grad=True)
    criterion(Latents(z, c)).backward()  # so that gradients exist already
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        criterion(Latents(z, c)).backward()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        criterion(Latents(z, c)).backward()
    return peak_of(recorded)


def peak_of(recorded: profile) -> int:
    """The highest running sum of the allocations and releases that a profile lists."""
    events = recorded.profiler.kineto_results.events()  # type: ignore[union-attr]
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


@app.command()
def main(
    batch: Annotated[int, typer.Option(help="Windows a step.")] = 8,
    rounds: Annotated[int, typer.Option(help="Rounds in which the variants take turns.")] = 8,
    device: Annotated[str, typer.Option()] = "cuda" if torch.cuda.is_available() else "cpu",
    keep_memory: Annotated[bool, typer.Option(help="Tune malloc as `cpc train` does; torch alone does not.")] = False,
) -> None:
    """Print the table: time of a step, times faster than the usual criterion, and peak memory of the criterion."""
    chosen = torch.device(device)
    model, loss, both = criteria(chosen)
    if keep_memory:
        keep_freed_memory(chosen)
    adam = optimizer(OptimConfig(), model, loss)
    wave = torch.randn(batch, SAMPLES, device=chosen) * 0.1

    def step(criterion: Criterion, bf16: bool) -> None:
        with torch.autocast(chosen.type, dtype=torch.bfloat16, enabled=bf16):
            value = criterion(model(wave))
        adam.zero_grad()
        value.backward()
        adam.step()

    variants = [(name, bf16) for bf16 in ((False, True) if has_bf16(chosen) else (False,)) for name in both]
    times: dict[tuple[str, bool], list[float]] = {variant: [] for variant in variants}
    for number in range(rounds + 1):
        for name, bf16 in variants:
            taken = settled(lambda n=name, b=bf16: step(both[n], b), chosen)  # type: ignore[misc]
            if number:  # the first round warms up
                times[name, bf16].append(taken)
    least = {variant: min(values) for variant, values in times.items()}
    peaks = {name: peak_bytes(criterion, batch, model, chosen) for name, criterion in both.items()}
    show(batch, chosen, least, peaks)


def show(batch: int, device: torch.device, least: dict[tuple[str, bool], float], peaks: dict[str, int]) -> None:
    """The table, with ratios to the usual criterion in fp32."""
    usual = least[USUAL, False]
    table = Table(title=f"{device_name(device)}; torch {torch.__version__}; batch {batch} × {SAMPLES}")
    for heading in ("criterion", "precision", "step, s", "× faster", "× real time", "criterion's peak, MB", "share"):
        table.add_column(heading, justify="right" if heading not in ("criterion", "precision") else "left")
    for (name, bf16), taken in least.items():
        peak = peaks[name] / 1e6
        memory = () if bf16 else (f"{peak:.0f}", f"{peaks[name] / peaks[USUAL]:.3f}")
        speed = (f"{taken:.3f}", f"{usual / taken:.1f}", f"{batch * SAMPLES / 16000 / taken:.0f}")
        table.add_row(name, "bf16" if bf16 else "fp32", *speed, *memory)
    Console(width=120).print(table)


if __name__ == "__main__":
    run(app)
