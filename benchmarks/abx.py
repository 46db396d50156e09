"""Time of ABX, phase by phase and against the slow oracle; and, where fastabx is installed, its time and its number.

    python -m benchmarks.abx CORPUS [--split SPLIT] [--dim 256] [--speaker within] [--context within] [--threads 1]

Items come from the corpus's alignment. Features are noise, 100 frames a second, smoothed over time so that paths have
something to follow: what they hold does not change how long it takes. The oracle (`tests/evaluation/abx/reference.py`,
pure Python) is timed on a few pairs of items, and its time for all of them follows. Seconds of the processor say more
than those of the clock where other work goes on beside.

fastabx (Python 3.12) gets the items that were drawn here, without caps of its own, and the same arrays: both then
evaluate the same triplets, and their errors must agree. Without it the table says how to have it.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.floor import Machine
from cpc.data.corpus import Corpus
from cpc.device import device_name
from cpc.evaluation.abx.cells import drop_unused, make_cells, make_groups
from cpc.evaluation.abx.items import ABXData, FeatureStore, Items, aligned_material, write_items
from cpc.evaluation.abx.score import Stretches, measure, score_cells, summarise
from cpc.evaluation.abx.task import ABXTask, compare
from cpc.evaluation.features import FrameTable
from data_prep.console import run
from tests.evaluation.abx.reference import item_distance

app = typer.Typer(add_completion=False)

HOP = 0.01  # seconds
ORACLE_PAIRS = 5


def noise(material: ABXData, dim: int) -> FeatureStore:
    """White noise, averaged over 5 frames."""
    corpus = material.corpus
    counts = [int(corpus.samples[row] / corpus.sample_rate / HOP) + 2 for row in material.rows.tolist()]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    white = torch.randn(int(offsets[-1]), dim, generator=torch.Generator().manual_seed(0))
    sums = torch.zeros_like(white)
    for shift in range(-2, 3):
        sums += white.roll(shift, 0)
    places = {corpus.ids[row]: place for place, row in enumerate(material.rows.tolist())}
    return FeatureStore("noise", FrameTable(sums, offsets), places, lambda n: (np.arange(n) + 0.5) * HOP)


class Watch:
    """Seconds of the clock and of the processor, phase by phase."""

    def __init__(self) -> None:
        self.phases: dict[str, tuple[float, float]] = {}
        self._start = time.perf_counter(), time.process_time()

    def lap(self, name: str) -> None:
        """What began with the last lap ends here."""
        now = time.perf_counter(), time.process_time()
        self.phases[name] = now[0] - self._start[0], now[1] - self._start[1]
        self._start = now

    @property
    def total(self) -> tuple[float, float]:
        """Of all phases."""
        return sum(clock for clock, _ in self.phases.values()), sum(own for _, own in self.phases.values())


class Amount(NamedTuple):
    """Pairs of items that were compared, and the pairs of their frames."""

    pairs: int
    cells: int


def measured(bank: FeatureStore, items: Items, task: ABXTask, device: torch.device) -> tuple[Watch, float, Amount]:
    """The time of each phase, the error, and how much was compared."""
    watch = Watch()
    groups, names = make_groups(items, task.context, task.most_items, task.seed)
    groups, cells = drop_unused(groups, make_cells(groups, names, task.speaker, task.most_speakers, task.seed))
    watch.lap("items → cells")
    starts, counts = bank.slice(items, task.slicing)
    stretches = Stretches(bank.table.frames, starts[groups.members], counts[groups.members])
    distances = measure(groups, cells, stretches, task.distance, device)
    watch.lap("distances and warping")
    scores = score_cells(distances, cells)
    watch.lap("triplets → scores")
    error = summarise(groups, cells, scores, len(names.phones), task.seed).error
    watch.lap("mean and interval")
    g, h = np.divmod(distances.keys, len(groups))
    frames = counts[groups.members]
    sums, squares = (np.add.reduceat(values, groups.bounds[:-1]) for values in (frames, frames**2))
    return watch, error, Amount(_pairs(g, h, groups.sizes, groups.sizes), _pairs(g, h, sums, squares))


def _pairs(g: np.ndarray, h: np.ndarray, sums: np.ndarray, squares: np.ndarray) -> int:
    """Pairs between groups, and within one where both are the same; of items, or of the frames of different items."""
    return int(np.where(g == h, (sums[g] ** 2 - squares[g]) // 2, sums[g] * sums[h]).sum())


def floor_seconds(cells: int, dim: int, device: torch.device) -> float:
    """The products of all frames that are compared; or the distances, written once and read once."""
    return Machine.measure(device, bf16=False).floor(2.0 * cells * dim, 2 * 4.0 * cells, "fp32")


def oracle_seconds(bank: FeatureStore, items: Items) -> float:
    """Of one pair of items, the median over a few."""
    starts, counts = bank.slice(items)
    drawn = np.random.default_rng(0).permutation(np.flatnonzero(counts))[: 2 * ORACLE_PAIRS]
    stretches = [bank.table.frames[starts[i] : starts[i] + counts[i]].tolist() for i in drawn.tolist()]
    taken = []
    for x, y in zip(stretches[::2], stretches[1::2], strict=True):
        start = time.process_time()
        item_distance(x, y, "angular")
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def fastabx(bank: FeatureStore, items: Items, task: ABXTask) -> tuple[float, Watch] | str:
    """Its error and its time on the items that were drawn here; or why there are none."""
    os.environ["TQDM_DISABLE"] = "1"
    try:
        from fastabx import ABXTask as TheirTask
        from fastabx import Dataset, Score  # type: ignore[import-not-found]
    except ImportError:
        return "not installed: it needs Python 3.12; `pip install fastabx` there, beside this package"
    found = compare(bank, items, task)
    drawn = items.take(found.groups.members)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_items(folder / "drawn.item", drawn)
        for file, place in bank.places.items():
            np.save(folder / f"{file}.npy", bank.table.utterance(place).numpy())
        load: Callable[[Path], Any] = lambda path: torch.from_numpy(np.load(path))  # noqa: E731
        watch = Watch()
        frequency = round(1 / HOP)
        data = Dataset.from_item(folder / "drawn.item", folder, frequency, feature_maker=load, extension=".npy")
        watch.lap("fastabx: arrays → data set")
        score = Score(
            TheirTask.from_cells(data, cells_for_fastabx(found), is_symmetric=found.cells.symmetric), "angular"
        )
        errors = np.asarray(score.cells["score"].to_list())
        watch.lap("fastabx: cells → scores")
    worst = float(np.abs(errors - (1 - found.scores)).max())
    differing = int((np.abs(errors - (1 - found.scores)) > 1e-6).sum())
    print(f"cells: {len(errors)}, of which {differing} differ by more than 1e-6, at most by {worst:.2g}")
    return summarise(found.groups, found.cells, 1 - errors, len(found.phones)).error, watch


def cells_for_fastabx(found: Any) -> Any:
    """The same cells, by the places of the items that were written."""
    import polars

    groups, cells = found.groups, found.cells
    places = [list(range(a, b)) for a, b in zip(groups.bounds[:-1].tolist(), groups.bounds[1:].tolist(), strict=True)]
    columns: dict[str, list[Any]] = {
        f"index_{side}": [places[g] for g in getattr(cells, side).tolist()] for side in "abx"
    }
    labels = [str(number) for number in range(len(cells))]
    return polars.DataFrame({"description": labels, "header": labels, **columns})


@app.command()
def main(
    corpus: Annotated[Path, typer.Argument(help="A packed corpus with phone labels.")],
    split: Annotated[str | None, typer.Option(help="A split or a subset of it.")] = None,
    dim: Annotated[int, typer.Option(help="Dimensions of the features.")] = 256,
    speaker: Annotated[str, typer.Option(help="within or across.")] = "within",
    context: Annotated[str, typer.Option(help="within or any.")] = "within",
    threads: Annotated[int, typer.Option(help="Of torch.")] = 1,
    device: Annotated[str, typer.Option()] = "cpu",
) -> None:
    """Print the table."""
    torch.set_num_threads(threads)
    task = ABXTask.named(speaker, context)
    material = aligned_material(Corpus.open(corpus), "triphone" if context == "within" else "phone", split)
    bank = noise(material, dim)
    watch, error, (pairs, cells) = measured(bank, material.items, task, torch.device(device))
    title = f"{device_name(torch.device(device))}; torch {torch.__version__}; ABX {speaker}-{context}, {dim} dimensions"
    table = Table(title=f"{title}; {len(material.items):,} items, {pairs:,} pairs of them", title_justify="left")
    for heading in ("what", "s", "s of the processor", "share of ours", "error %"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    ours = watch.total[1]
    for name, taken in watch.phases.items():
        table.add_row(name, *row(taken, ours))
    table.add_row("all of it", *row(watch.total, ours), f"{100 * error:.4f}")
    floor = floor_seconds(cells, dim, torch.device(device))
    table.add_row(
        f"floor: {cells / 1e6:,.0f} million products of frames", f"{floor:.1f}", "", f"{floor / watch.total[0]:.2f}"
    )
    oracle = oracle_seconds(bank, material.items) * pairs
    table.add_row("pure Python, from a few pairs", "", f"{oracle:,.0f}", f"{oracle / ours:,.0f}")
    theirs = fastabx(bank, material.items, task)
    if not isinstance(theirs, str):
        for name, taken in theirs[1].phases.items():
            table.add_row(name, *row(taken, ours), f"{100 * theirs[0]:.4f}" if "scores" in name else "")
    Console(width=150).print(table)
    if isinstance(theirs, str):
        print(f"fastabx: {theirs}")


def row(taken: tuple[float, float], ours: float) -> tuple[str, str, str]:
    """Seconds, seconds of the processor, and these as a share."""
    return f"{taken[0]:.1f}", f"{taken[1]:.1f}", f"{taken[1] / ours:.2f}"


if __name__ == "__main__":
    run(app)
