"""Fitting a linear probe to its optimum, beside scikit-learn's solvers, by the number of frames.

    python -m benchmarks.probing [--most 1000000] [--rounds 2] [--device cpu]
    python -m benchmarks.probing --run runs/demo --corpus data/demo [--frames 100000] [--l2 2e-4]

The first has synthetic frames: 256 correlated channels, 41 classes of unequal size that overlap so that about half of
the frames are recognised, as with phones. The second takes the phones of a run's c, and tests on its test split. All
minimise the same function, and the table gives the value that each reached: scikit-learn's L-BFGS stops at its own
tolerance (1e-4) or after 200 iterations, its SAGA after 30 passes. The floor is the operations of the iterations that
we took (scores forward, gradient backward) over the measured rate of a matrix product.
"""

import time
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from benchmarks.floor import Machine, in_turns
from cpc.data.corpus import Corpus
from cpc.device import device_name
from cpc.evaluation.features import Layer, extract_features
from cpc.evaluation.probes.dataset import examples
from cpc.evaluation.probes.linear import Fitting, LinearClassifier, fit
from cpc.evaluation.probes.protocol import ProbeSetup
from cpc.models.checkpoint import load
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


def objective(x: np.ndarray, y: Tensor, weight: np.ndarray, bias: np.ndarray, l2: float = L2) -> float:
    """The mean cross-entropy and the penalty."""
    scores = torch.from_numpy(x @ weight + bias)
    return float(torch.nn.functional.cross_entropy(scores, y)) + l2 / 2 * float((weight**2).sum())


@app.command()
def main(
    most: Annotated[int, typer.Option(help="The most frames.")] = SIZES[-1],
    rounds: Annotated[int, typer.Option(min=1, help="Rounds in which the two take turns.")] = 2,
    device: Annotated[str, typer.Option()] = "cuda" if torch.cuda.is_available() else "cpu",
    run_folder: Annotated[Path | None, typer.Option("--run", help="Take c of this run instead.")] = None,
    corpus: Annotated[Path, typer.Option(help="Corpus with phones for --run.")] = Path("data/demo"),
    l2: Annotated[float, typer.Option(help="Strength of the penalty for --run.")] = 2e-4,
    drawn: Annotated[int, typer.Option("--frames", help="Training frames for --run.")] = USUAL,
) -> None:
    """Print the table."""
    chosen = torch.device(device)
    if run_folder is not None:
        beside_solvers(*real(run_folder, corpus, drawn), l2, chosen)
        return
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


def real(run_folder: Path, folder: Path, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Frames of c and their phones: so many of phone_train, and all of phone_test."""
    model, corpus = load(run_folder), Corpus.open(folder)
    parts: list[Tensor] = []
    for split in ("phone_train", "phone_test"):
        rows = corpus.rows(split)
        features = Layer(model, "c")
        table = extract_features(features, corpus, rows)
        found = examples(ProbeSetup(corpus, "phone_train", "phone_test", "phones"), "phone", features, rows, table)
        if split == "phone_train":
            found = found.draw(count, np.random.default_rng(0))
        parts += [found.x(), torch.from_numpy(found.y)]
    return parts[0], parts[1], parts[2], parts[3]


def beside_solvers(x: Tensor, y: Tensor, test_x: Tensor, test_y: Tensor, l2: float, device: torch.device) -> None:
    """Time, value of the function and accuracy of ours and of scikit-learn's, each once; and of a tight optimum."""
    classes = int(max(y.max(), test_y.max())) + 1
    mean, deviation = x.mean(0), x.std(0)
    plain, test = ((part - mean).div(deviation).numpy() for part in (x, test_x))
    common = {"C": 1 / (l2 * len(x))}
    solvers = {
        "ours": None,
        "ours, to 1e-7": None,
        "lbfgs of scikit-learn, as it comes": LogisticRegression(max_iter=100, **common),
        "lbfgs of scikit-learn, 1e-6": LogisticRegression(max_iter=2000, tol=1e-6, **common),
        "saga of scikit-learn, 30 passes": LogisticRegression(solver="saga", max_iter=30, **common),
    }
    title = f"phones of c, {len(x):,} × {x.shape[1]} frames, {classes} classes, L2 {l2:g}; {device_name(device)}"
    table = Table(title=title, title_justify="left")
    for heading in ("solver", "s", "× ours", "J", "accuracy %"):
        table.add_column(heading, justify="left" if heading == "solver" else "right")
    first = 0.0
    for name, solver in solvers.items():
        begun = time.perf_counter()
        if solver is None:
            tolerance = 1e-7 if "1e-7" in name else Fitting().tolerance
            found = fit(x, y, classes, Fitting(l2=l2, tolerance=tolerance, max_iterations=2000), device)
            taken, value = time.perf_counter() - begun, found.objective
            right = found.predict(test_x) == test_y
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                solver.fit(plain, y.numpy())
            taken = time.perf_counter() - begun
            weight, bias = np.zeros((x.shape[1], classes)), np.full(classes, -np.inf)
            weight[:, solver.classes_], bias[solver.classes_] = solver.coef_.T, solver.intercept_
            value = objective(plain, y, weight, bias, l2)
            right = torch.from_numpy(solver.predict(test)) == test_y
        first = first or taken
        accuracy = 100 * float(right.double().mean())
        table.add_row(name, f"{taken:.1f}", f"{taken / first:.1f}", f"{value:.5f}", f"{accuracy:.2f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    run(app)
