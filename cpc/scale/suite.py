"""The paper's first table by one command: random init, MFCC, CPC by both classifiers, supervised; phones and speakers.

Every cell is a `ProbeResult` that is cached when it is done, so that a suite resumes where it stopped. Whether one
row is above the next is settled by a paired test on the same utterances, not by looking at two intervals.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cpc.audio.mfcc import MFCC39
from cpc.data.corpus import Corpus
from cpc.evaluation.features import Features, Layer
from cpc.evaluation.leakage import pretraining_note
from cpc.evaluation.probes.probe import probe_cached
from cpc.evaluation.probes.protocol import ProbeProtocol, ProbeSetup, check
from cpc.evaluation.results import ProbeResult, ProbeTask
from cpc.evaluation.runner import pretrain_ids, progress_line, read_state, record, record_table
from cpc.evaluation.stats import OverSeeds, PairedTest, over_seeds, paired
from cpc.io import write_json
from cpc.models.checkpoint import load
from cpc.models.cpc import CPC, build
from cpc.scale.topline import Topline, topline

if TYPE_CHECKING:
    from rich.table import Table

ROWS = ("random init", "MFCC", "CPC, linear", "CPC, one hidden layer", "supervised")
FILE = "suite-paper-{}.json"  # of the data of its first column


class Column(NamedTuple):
    """What a column of the table measures."""

    name: str
    task: ProbeTask
    train: str
    test: str


COLUMNS = (
    Column("phone", "phone", "phone_train", "phone_test"),
    Column("speaker, frame", "speaker_frame", "speaker_train", "speaker_test"),
)
DISJOINT = Column(
    "speaker, frame, other chapters",
    "speaker_frame",
    "speaker_chapterdisjoint_train",
    "speaker_chapterdisjoint_test",
)


@dataclass(frozen=True)
class Cell:
    """The results of one row in one column: one for each seed or run."""

    row: str
    column: str
    results: tuple[ProbeResult, ...]

    @property
    def spread(self) -> OverSeeds:
        return over_seeds([result.accuracy for result in self.results])


@dataclass(frozen=True)
class Step:
    """From one row of a column to the next: is the second above the first?"""

    column: str
    lower: str
    upper: str
    test: PairedTest


@dataclass(frozen=True)
class Suite:
    """The table: its cells row by row, and the steps from row to row."""

    title: str
    cells: tuple[Cell, ...]
    steps: tuple[Step, ...]


def paper_suite(
    run: Path,
    corpus: Path,
    *,
    columns: Sequence[Column] = COLUMNS,
    others: Sequence[Path] = (),
    seeds: int = 1,
    how: Topline | None = None,
    labels: str = "phones",
    device: str = "cpu",
    progress: bool = True,
) -> Suite:
    """Table 1 of van den Oord et al. 2018 for a run, on splits of a corpus: computed, written, recorded in MLflow.

    others: runs of the same recipe with other seeds; their results join the CPC rows. seeds: how often that which
    draws numbers is done over: random init, hidden layer, topline. `how` is how the topline is trained.

    Raises InputError for splits that cannot be evaluated, before anything is computed.
    """
    setups = [
        (column, ProbeSetup(Corpus.open(corpus), column.train, column.test, labels, device=device, progress=progress))
        for column in columns
    ]
    runs = [run, *others]
    for each in runs:
        read_state(each)
    for column, setup in setups:
        check(setup, column.task)
    models = {each: load(each, device) for each in runs}
    cells, cache = [], run.parent / ".cache"
    for column, setup in setups:
        for name, results in _cells(models, column, setup, seeds, how or Topline(), cache):
            cells.append(Cell(name, column.name, tuple(result for result, _ in results)))
            for result, owner in results:
                record([result], owner)
    cells.sort(key=lambda cell: ROWS.index(cell.row))
    suite = Suite(f"{setups[0][1].corpus.name}, {run.name}", tuple(cells), tuple(_steps(cells, columns)))
    write_json(file := run / FILE.format(cells[0].results[0].where), to_dict(suite))
    record_table(run, "paper", metrics(suite), file)
    return suite


Owned = list[tuple[ProbeResult, Path]]  # results with the run that they belong to


def _cells(
    models: Mapping[Path, CPC], column: Column, setup: ProbeSetup, seeds: int, how: Topline, cache: Path
) -> Iterator[tuple[str, Owned]]:
    """The rows of one column, as they are done."""
    first = next(iter(models))
    linear, hidden = ProbeProtocol(), [ProbeProtocol(classifier="mlp", seed=seed) for seed in range(seeds)]

    def evaluated(features: Features, protocols: Sequence[ProbeProtocol]) -> list[ProbeResult]:
        return probe_cached([features], setup, [column.task], cache, protocols)

    config = models[first].config
    random = [Layer(build(config, seed).to(setup.device), "c", "random") for seed in range(seeds)]
    scores = [(evaluated(layer, [ProbeProtocol(seed=seed)])[0], first) for seed, layer in enumerate(random)]
    yield ROWS[0], scores
    yield ROWS[1], [(evaluated(MFCC39().to(setup.device), [linear])[0], first)]
    own = {run: evaluated(Layer(model, "c"), [linear, *hidden]) for run, model in models.items()}
    heard = {run: pretraining_note(setup.corpus, setup.rows(setup.test), pretrain_ids(run)) for run in models}
    noted = {run: [replace(r, notes=r.notes + heard[run]) for r in results] for run, results in own.items()}
    yield ROWS[2], [(results[0], run) for run, results in noted.items()]
    yield ROWS[3], [(result, run) for run, results in noted.items() for result in results[1:]]
    yield ROWS[4], [(_supervised(setup, column, models[first], seed, how, cache), first) for seed in range(seeds)]


def _supervised(setup: ProbeSetup, column: Column, model: CPC, seed: int, how: Topline, cache: Path) -> ProbeResult:
    asked = replace(setup, protocol=ProbeProtocol(seed=seed))
    with progress_line(f"{column.task} topline", setup.progress) as said:
        result = topline(asked, column.task, model.config, how, cache, _say(setup.progress))
        said.append(f"{result.accuracy:.1%} after {result.iterations} steps")
    return result


def _say(shown: bool) -> Callable[[str], None]:
    from rich.console import Console

    return Console(stderr=True, quiet=not shown, soft_wrap=True).print


def _steps(cells: Sequence[Cell], columns: Sequence[Column]) -> Iterator[Step]:
    """Each row against the one before, by its first seed."""
    for column in columns:
        own = [cell for cell in cells if cell.column == column.name]
        for lower, upper in pairwise(own):
            yield Step(column.name, lower.row, upper.row, paired(upper.results[0], lower.results[0]))


def metrics(suite: Suite) -> dict[str, float]:
    """Every cell under a name for MLflow: TASK/WHERE/ROW/mean, …/low, …/high, and …/deviation over seeds."""
    found: dict[str, float] = {}
    for cell in suite.cells:
        first = cell.results[0]
        row = cell.row.replace(",", "").replace(" ", "_").lower()
        values = {"mean": cell.spread.mean, "low": first.low, "high": first.high, "deviation": cell.spread.deviation}
        name = f"{first.task}/{first.where}/{row}"
        found |= {f"{name}/{key}": value for key, value in values.items() if value is not None}
    return found


def to_dict(suite: Suite) -> dict[str, Any]:
    """The table as plain values."""
    return {
        "title": suite.title,
        "cells": [
            {"row": cell.row, "column": cell.column, **cell.spread._asdict()}
            | {key: getattr(cell.results[0], key) for key in ("low", "high", "speakers_low", "speakers_high")}
            | {key: getattr(cell.results[0], key) for key in ("task", "train", "test", "test_utterances", "protocol")}
            | {"notes": list(cell.results[0].notes), "files": [result.file_name for result in cell.results]}
            for cell in suite.cells
        ],
        "steps": [
            {"column": step.column, "lower": step.lower, "upper": step.upper, **vars(step.test)} for step in suite.steps
        ],
    }


def suite_table(suite: Suite) -> "Table":
    """For a terminal: accuracy in %, its 95% interval over utterances, and ± the deviation where there are seeds."""
    from rich.table import Table

    columns = list(dict.fromkeys(cell.column for cell in suite.cells))
    table = Table(title=f"{suite.title}: accuracy % [95% interval over utterances]", title_justify="left")
    table.add_column("features")
    for column in columns:
        table.add_column(column, justify="right")
    for row in dict.fromkeys(cell.row for cell in suite.cells):
        own = {cell.column: cell for cell in suite.cells if cell.row == row}
        table.add_row(row, *(_cell(own[column]) for column in columns))
    return table


def _cell(cell: Cell) -> str:
    mean, deviation, count = cell.spread
    over = f" ± {100 * deviation:.1f} ({count} seeds)" if deviation is not None else ""
    first = cell.results[0]
    return f"{100 * mean:.1f}{over} " + rf"\[{100 * first.low:.1f}, {100 * first.high:.1f}]"


def order_lines(suite: Suite) -> list[str]:
    """From row to row in words: what is above what, and where nothing can be said."""
    lines = []
    for step in suite.steps:
        test = step.test
        size = f"{100 * test.difference:+.1f} points [{100 * test.low:+.1f}, {100 * test.high:+.1f}], p = {test.p:.2g}"
        verdict = "" if test.significant else ": within noise"
        lines.append(f"{step.column}: {step.upper} against {step.lower} {size}{verdict}")
    return lines
