"""Is a difference more than noise? Two results on the same test set, and several seeds of the same settings."""

import csv
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpc.config import InputError
from cpc.evaluation import stats as interval
from cpc.evaluation.experiment import (
    BASELINE,
    UNCOMPARED,
    Row,
    best,
    best_row,
    curves,
    differing,
    find_run,
    is_error,
    rows,
    rows_of,
    runs,
    tasks,
)
from cpc.evaluation.results import ProbeResult, headings
from cpc.evaluation.stats import paired
from cpc.io import room_for
from cpc.tracking.curves import History, history
from cpc.tracking.mlflow import RUNS, connect

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

LEVEL = 0.05
_QUANTILE = 1.959964  # of the normal distribution: a 95% interval is ± so many standard errors


@dataclass(frozen=True)
class Verdict:
    """First less second, with its 95% interval and p value, and how they were found."""

    difference: float
    low: float
    high: float
    p: float
    how: str

    @property
    def significant(self) -> bool:
        """True where the difference is not within noise, at 5%, for this one comparison."""
        return self.p < LEVEL


def paired_test(one: Row, other: Row, task: str) -> Verdict:
    """Compare two rows on a task that both have.

    Utterance by utterance where both results were recorded so and are of the same test set; else from the two
    intervals as if the test sets were independent, which is too careful where they are the same.
    """
    if task in one.results and task in other.results:
        try:
            return _paired(one.results[task], other.results[task])
        except InputError:
            pass  # not the same test set, or recorded by an old version: the intervals remain
    return _from_intervals(one.metrics[task], other.metrics[task])


@lru_cache(1024)
def _paired(one: ProbeResult, other: ProbeResult) -> Verdict:
    found = paired(one, other)
    return Verdict(found.difference, found.low, found.high, found.p, f"paired over {found.clusters} {found.by}s")


def _from_intervals(one: tuple[float, float, float], other: tuple[float, float, float]) -> Verdict:
    difference = one[0] - other[0]
    error = math.hypot(*((high - low) / (2 * _QUANTILE) for _, low, high in (one, other)))
    half = _QUANTILE * error
    p = math.erfc(abs(difference) / error / math.sqrt(2)) if error else float(difference == 0)
    return Verdict(difference, difference - half, difference + half, p, "from the two intervals, unpaired")


def ties(table: Sequence[Row], task: str) -> list[Row]:
    """The rows whose difference from the best is within noise; the best itself is not among them."""
    top = best_row(table, task)
    others = [row for row in table if task in row.metrics and row is not top]
    return [row for row in others if not paired_test(top, row, task).significant]


@dataclass(frozen=True)
class Seeds:
    """Runs with the same settings but for the seed: mean and standard deviation of every task that all have."""

    runs: tuple[str, ...]
    features: str
    settings: Mapping[str, str]
    metrics: Mapping[str, interval.OverSeeds]

    @property
    def label(self) -> str:
        """The runs' names, shortened to what they share where that is something."""
        shared = self.runs[0]
        for name in self.runs[1:]:
            while not name.startswith(shared):
                shared = shared[:-1]
        shared = shared.removesuffix("-seed").rstrip("-_ ")
        return shared if len(shared) > 1 else ", ".join(self.runs)


def over_seeds(table: Sequence[Row]) -> list[Seeds]:
    """Every group of at least two seeds of the same settings, in the order of the table."""
    groups: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in table:
        if not row.is_baseline and row.status == "FINISHED":
            fixed = tuple(sorted((k, v) for k, v in row.settings.items() if k not in ("seed", "experiment")))
            groups[row.features, fixed].append(row)
    found = []
    for group in groups.values():
        by_seed = {row.settings.get("seed"): row for row in group}  # the latest run of a seed
        if len(by_seed) > 1:
            found.append(_spread(list(by_seed.values())))
    return found


def _spread(group: Sequence[Row]) -> Seeds:
    shared = [task for task in tasks(group) if all(task in row.metrics for row in group)]
    spreads = {task: interval.over_seeds([row.metrics[task][0] for row in group]) for task in shared}
    return Seeds(tuple(row.run for row in group), group[0].features, group[0].settings, spreads)


# --- An experiment at a glance: one table of its runs, for a terminal and as CSV.


__all__ = ["BASELINE", "Row", "best", "curves", "differing", "render", "render_seeds", "rows", "runs", "tasks"]
MOST_SETTINGS = 8  # that a terminal's table shows
LEGEND = "* best of its column; ≈ its difference from the best is within noise (5%, this one comparison)"


def render(table: Sequence[Row], title: str) -> "Table":
    """A table for a terminal, the best of each column in bold with a star, what cannot be told from it with ≈."""
    from rich.table import Table

    columns, found = differing(table), tasks(table)
    caption = [LEGEND] if found else []
    if len(columns) > MOST_SETTINGS:
        caption.append(f"{len(columns)} settings differ, too many to show here: they are in the CSV file")
        columns = []
    drawn = Table(title=title, title_justify="left", caption="\n".join(caption) or None, caption_justify="left")
    for heading in ("run", "features", *(key.rpartition(".")[2] for key in columns)):
        drawn.add_column(heading)
    for heading in headings(found).values():
        drawn.add_column(heading_of(heading), justify="right")
    marks = marked(table)
    for sweep, group in in_sweeps(table):
        if sweep:
            drawn.add_section()
            drawn.add_row(_text(f"sweep {sweep}", "italic"))
        for row in group:
            name = f"  {row.name}" if sweep else row.name
            cells = [_cell(row.metrics.get(task), marks.get((row.key, task), "")) for task in found]
            settings = (_text(row.settings.get(key, "")) for key in columns)
            drawn.add_row(_text(name), _text(row.features), *settings, *cells)
    return drawn


def in_sweeps(table: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Neighbours of the same sweep together; the name is empty for runs of their own."""
    for sweep, group in groupby(table, key=lambda row: row.sweep):
        yield sweep, list(group)


def heading_of(task: str) -> str:
    """A column's heading in two lines: what is measured, and on what; `task` as `headings` gives it."""
    if is_error(task):
        measure, split, kind = task.split("/", 2)
        return f"{'ABX error' if measure == 'abx' else measure} {kind} %\n({split})"
    kind, _, split = task.rpartition("/")
    return f"{kind.replace('_', ' ')} %\n({split})"


def marked(table: Sequence[Row]) -> dict[tuple[tuple[str, str], str], str]:
    """* for the best of each task and ≈ for those within noise of it, by (key of the row, task)."""
    marks = {(row.key, task): "≈" for task in tasks(table) for row in ties(table, task)}
    return marks | {(best_row(table, task).key, task): "*" for task in tasks(table)}


def percent(metric: tuple[float, float, float]) -> str:
    """A value with its interval: 44.7 [43.7, 45.7]."""
    value, low, high = (100 * number for number in metric)
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _cell(metric: tuple[float, float, float] | None, mark: str) -> "Text":
    if metric is None:
        return _text("–")
    return _text(f"{mark} {percent(metric)}".lstrip(), "bold" if mark == "*" else "")


def _text(words: str, style: str = "") -> "Text":
    """Words as they are: nothing in them is read as rich's markup."""
    from rich.text import Text

    return Text(words, style)


def render_seeds(table: Sequence[Row]) -> "Table | None":
    """Mean ± standard deviation of every setting that was trained with several seeds; None where none was."""
    from rich.table import Table

    groups = over_seeds(table)
    if not groups:
        return None
    found = [task for task in tasks(table) if any(task in group.metrics for group in groups)]
    drawn = Table(title="several seeds: mean ± standard deviation", title_justify="left")
    for heading in ("runs", "features", "seeds"):
        drawn.add_column(heading)
    shown = headings(tasks(table))
    for task in found:
        drawn.add_column(heading_of(shown[task]), justify="right")
    for group in groups:
        cells = [plus_minus(group, task) for task in found]
        drawn.add_row(_text(group.label), _text(group.features), str(len(group.runs)), *cells)
    return drawn


def plus_minus(group: Seeds, task: str) -> str:
    """44.1 ± 0.6"""
    found = group.metrics.get(task)
    if found is None or found.deviation is None:
        return "–"
    return f"{100 * found.mean:.1f} ± {100 * found.deviation:.1f}"


def write_csv(table: Sequence[Row], path: Path) -> Path:
    """The table with every number in full."""
    columns, found = differing(table), tasks(table)
    heading = ["run", "features", "status", "sweep", *columns]
    heading += [
        f"{shown}/{part}"
        for task, shown in headings(found).items()
        for part in ("error" if is_error(task) else "accuracy", "low", "high")
    ]
    with room_for(path), path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(heading)
        for row in table:
            numbers: list[Any] = [n for task in found for n in row.metrics.get(task, ("", "", ""))]
            settings = (row.settings.get(k, "") for k in columns)
            writer.writerow([row.run, row.features, row.status, row.sweep, *settings, *numbers])
    return path


# --- Two runs side by side: the settings in which they differ, their results with a test, and how they were trained.


TRAINING = ("train/loss", "valid/loss", "train/accuracy", "valid/accuracy")
VERSIONS = ("git_commit", "version.cpc", "version.torch", "device", "precision", "corpus_digest", "collapse")


@dataclass(frozen=True)
class Difference:
    """One task on one kind of features, which both runs have; `heading` is the task for a reader."""

    task: str
    heading: str
    features: str
    one: tuple[float, float, float]
    other: tuple[float, float, float]
    verdict: Verdict

    @property
    def better(self) -> int:
        """1 if the first is better, 2 if the second is, 0 where the difference is within noise."""
        if not self.verdict.significant:
            return 0
        return 1 if (self.verdict.difference < 0) == is_error(self.task) else 2


@dataclass(frozen=True)
class Versus:
    """Two runs, with the settings, versions and last training metrics in which they differ, and their curves."""

    names: tuple[str, str]
    settings: Mapping[str, tuple[str, str]]
    training: Mapping[str, tuple[float, float]]
    differences: Sequence[Difference]
    curves: Mapping[str, History]


def versus(one: str, other: str, root: Path = RUNS) -> Versus:
    """Compare two runs, each given by its folder, its name in any experiment, or its MLflow id.

    Raises:
        InputError: a run is unknown, its name is not unique, or both are the same.
    """
    client, found = connect(root), [find_run(name, root) for name in (one, other)]
    if found[0].info.run_id == found[1].info.run_id:
        raise InputError(f"runs {one} and {other}: are the same run; name two")
    names = [str(run.info.run_name) for run in found]
    if names[0] == names[1]:
        names = [f"{run.info.run_name} {run.info.run_id[:6]}" for run in found]
    facts = [dict(run.data.params) | {k: run.data.tags.get(k, "") for k in VERSIONS} for run in found]
    keys = [*sorted(set(found[0].data.params) | set(found[1].data.params)), *VERSIONS]
    pairs = {key: (facts[0].get(key, ""), facts[1].get(key, "")) for key in keys if key not in UNCOMPARED}
    last = [run.data.metrics for run in found]
    return Versus(
        (names[0], names[1]),
        {key: pair for key, pair in pairs.items() if pair[0] != pair[1]},
        {key: (last[0][key], last[1][key]) for key in TRAINING if key in last[0] and key in last[1]},
        list(_differences(rows_of(client, found[0]), rows_of(client, found[1]))),
        {name: history(client, run.info.run_id) for name, run in zip(names, found, strict=True)},
    )


def _differences(ones: Sequence[Row], others: Sequence[Row]) -> Iterator[Difference]:
    by_features, shown = {row.features: row for row in others}, headings(tasks([*ones, *others]))
    for one in ones:
        other = by_features.get(one.features)
        for task in tasks([one]) if other else ():
            if other and task in other.metrics:
                values = (one.metrics[task], other.metrics[task])
                yield Difference(task, shown[task], one.features, *values, paired_test(one, other, task))


def render_versus(found: Versus) -> "list[Table]":
    """Two tables for a terminal: what differs in the settings, and what in the results."""
    from rich.table import Table
    from rich.text import Text

    settings = Table(title="settings that differ", title_justify="left")
    for heading in ("setting", *found.names):
        settings.add_column(Text(heading))
    for key, pair in found.settings.items():
        settings.add_row(*(Text(each) for each in (key, *pair)))
    results = Table(title="results, and the first less the second", title_justify="left")
    for heading in ("", "features", *found.names, "difference", "p", "verdict"):
        results.add_column(Text(heading))
    for key, (one, other) in found.training.items():
        results.add_row(key, "", f"{one:.3f}", f"{other:.3f}", f"{one - other:+.3f}", "", "not tested")
    for each in found.differences:
        results.add_row(*(Text(cell) for cell in cells(each, found.names)))
    return [settings, results] if found.settings else [results]


def cells(each: Difference, names: tuple[str, str]) -> list[str]:
    """A difference in words and numbers."""
    found = each.verdict
    apart = f"{100 * found.difference:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    verdict = f"{names[each.better - 1]} is better" if each.better else "within noise"
    p = "< 0.001" if found.p < 0.001 else f"{found.p:.3f}"
    task = heading_of(each.heading).replace("\n", " ")
    return [task, each.features, percent(each.one), percent(each.other), apart, p, f"{verdict} ({found.how})"]
