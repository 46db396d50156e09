"""Fitting a linear probe to its optimum, beside scikit-learn's L-BFGS, by the number of frames.

    python -m benchmarks.probing [--most 1000000] [--rounds 2] [--device cpu]

256 correlated channels, 41 classes of unequal size that overlap so that about half of the frames are recognised, as
with phones. Both minimise the same function, and the table gives the value that each reached: scikit-learn stops at
its own tolerance (1e-4) or after 200 iterations. The floor is the operations
of the iterations that we took (scores forward, gradient backward) over the measured rate of a matrix product.
"""

from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from benchmarks.floor import Machine, in_turns
from cpc.device import device_name
from cpc.evaluation.probes.linear import Fitting, LinearClassifier, fit
from data_prep.console import run

app = typer.Typer(add_completion=False)

SIZES = (1_000, 10_000, 100_000, 1_000_000)
USUAL = 100_000  # frames, beyond which scikit-learn takes too long
DIM, CLASSES, L2 = 256, 41, 1e-5


def frames(count: int) -> tuple[Tensor, Tensor]:
    """Features like an encoder's: a few directions hold most of the variance; classes overlap."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(DIM, DIM, generator=generator) * torch.logspace(0, -2, DIM)
    means = torch.randn(CLASSES, DIM, generator=generator) * 0.12
    y = torch.multinomial(1 / torch.arange(1.0, CLASSES + 1), count, replacement=True, generator=generator)
    noise = torch.randn(count, DIM, generator=generator)
    return (noise + means[y]) @ mixing.T, y


def standardised(x: Tensor) -> np.ndarray:
    """As the probe does it inside."""
    return ((x - x.mean(0)) / x.std(0)).numpy()


def objective(x: np.ndarray, y: Tensor, weight: np.ndarray, bias: np.ndarray) -> float:
    """The mean cross-entropy and the penalty."""
    scores = torch.from_numpy(x @ weight + bias)
    return float(torch.nn.functional.cross_entropy(scores, y)) + L2 / 2 * float((weight**2).sum())


@app.command()
def main(
    most: Annotated[int, typer.Option(help="The most frames.")] = SIZES[-1],
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in which the two take turns.")] = 2,
    device: Annotated[str, typer.Option()] = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    """Print the table."""
    chosen = torch.device(device)
    machine = Machine.measure(chosen, False)
    print(f"{device_name(chosen)}; torch {torch.__version__}; {machine}")
    table = Table(title=f"linear probe, {DIM} × {CLASSES}, fitted to the optimum", title_justify="left")
    for heading in ("frames", "s", "µs a frame", "iterations", "× the floor", "× faster", "J", "J of scikit-learn"):
        table.add_column(heading, justify="right")
    for count in (size for size in SIZES if size <= most):
        table.add_row(f"{count:,}", *measured(count, rounds, chosen, machine))
    Console(width=120).print(table)


def measured(count: int, rounds: int, device: torch.device, machine: Machine) -> list[str]:
    """The cells of a row."""
    x, y = frames(count)
    plain = standardised(x)
    ours: list[LinearClassifier] = []
    usual = LogisticRegression(C=1 / (L2 * count), max_iter=200)
    works = {"ours": lambda: ours.append(fit(x, y, CLASSES, Fitting(l2=L2), device))}
    if count <= USUAL:
        works["usual"] = lambda: usual.fit(plain, y.numpy())
    taken = in_turns(works, rounds, device)
    found = ours[-1]
    floor = machine.floor(2 * 2.0 * count * DIM * CLASSES * found.iterations, 0, "fp32")
    cells = [f"{taken['ours']:.2f}", f"{1e6 * taken['ours'] / count:.0f}", str(found.iterations)]
    cells.append(f"{taken['ours'] / floor:.1f}")
    if "usual" not in taken:
        return [*cells, "", f"{found.objective:.5f}", ""]
    theirs = objective(plain, y, usual.coef_.T, usual.intercept_)
    return [*cells, f"{taken['usual'] / taken['ours']:.1f}", f"{found.objective:.5f}", f"{theirs:.5f}"]


if __name__ == "__main__":
    run(app)
