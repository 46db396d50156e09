"""An experiment at a glance: its runs, the settings in which they differ, and what their features are worth.

Everything is read from MLflow, so it works on any tracking server. Probe results are metrics of the run that they
judge, named probe/TASK/TEST_SPLIT/FEATURES/accuracy with …/low and …/high; baselines are runs tagged `kind=baseline`.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpc.config import InputError
from cpc.tracking import RUNS, connect

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from rich.table import Table

BASELINE = "baseline"
UNCOMPARED = ("data.corpus", "experiment", "training.device")  # where things lie is not how they differ


@dataclass(frozen=True)
class Row:
    """One kind of features of one run."""

    run: str
    features: str
    settings: Mapping[str, str]
    metrics: Mapping[str, tuple[float, float, float]]  # TASK/TEST_SPLIT → accuracy, 95% interval
    status: str
    started: int

    @property
    def is_baseline(self) -> bool:
        return self.status == BASELINE


def rows(experiment: str, root: Path = RUNS) -> list[Row]:
    """Every run's features, baselines first, then in the order of their start.

    Raises:
        InputError: no such experiment (the known ones are named), or it has no run.
    """
    found = runs(experiment, root)
    table = [row for run in found for row in _rows_of(run)]
    return sorted(table, key=lambda row: (not row.is_baseline, row.started))


def runs(experiment: str, root: Path = RUNS) -> list["MlflowRun"]:
    """The experiment's runs in MLflow, oldest first."""
    client = connect(root)
    known = {e.name: e.experiment_id for e in client.search_experiments()}
    if experiment not in known:
        names = ", ".join(sorted(known.keys() - {"Default"})) or "none yet"
        raise InputError(f"experiment={experiment}: not in {client.tracking_uri}; known experiments: {names}")
    found: list[MlflowRun] = []
    token = None
    while True:
        page = client.search_runs([known[experiment]], order_by=["attributes.start_time ASC"], page_token=token)
        found, token = found + list(page), page.token
        if not token:
            break
    if not found:
        raise InputError(f"experiment={experiment}: has no runs yet; train one with cpc train")
    return found


def _rows_of(run: "MlflowRun") -> list[Row]:
    """One row for each kind of features that was probed; one without metrics for a run that was not."""
    by_features: dict[str, dict[str, tuple[float, float, float]]] = {}
    metrics = run.data.metrics
    for name, value in metrics.items():
        if name.startswith("probe/") and name.endswith("/accuracy"):
            stem = name.removesuffix("/accuracy")
            _, *task, features = stem.split("/")
            interval = (value, metrics.get(f"{stem}/low", value), metrics.get(f"{stem}/high", value))
            by_features.setdefault(features, {})["/".join(task)] = interval
    baseline = run.data.tags.get("kind") == BASELINE
    status, name = (BASELINE, "") if baseline else (run.info.status, run.info.run_name)
    return [
        Row(
            name or run.data.tags["features"],
            "" if baseline else f"CPC {features}".strip(),
            {} if baseline else run.data.params,
            by_features.get(features, {}),
            status,
            run.info.start_time,
        )
        for features in sorted(by_features, reverse=True) or [""]
    ]


def differing(table: Sequence[Row]) -> list[str]:
    """The settings in which the runs differ."""
    trained = [row.settings for row in table if not row.is_baseline]
    keys = sorted({key for settings in trained for key in settings} - set(UNCOMPARED))
    return [key for key in keys if len({settings.get(key) for settings in trained}) > 1]


def tasks(table: Sequence[Row]) -> list[str]:
    """TASK/TEST_SPLIT of every probe that any row has, phones first."""
    return sorted({task for row in table for task in row.metrics})


def best(table: Sequence[Row], task: str) -> float:
    """The highest accuracy on a task."""
    return max(row.metrics[task][0] for row in table if task in row.metrics)


def render(table: Sequence[Row], title: str) -> "Table":
    """A table for a terminal, the best of each column in bold with a star."""
    from rich.table import Table

    columns, found = differing(table), tasks(table)
    drawn = Table(title=title, title_justify="left")
    for heading in ("run", "features", *(key.rpartition(".")[2] for key in columns)):
        drawn.add_column(heading)
    for task in found:
        kind, _, split = task.partition("/")
        drawn.add_column(f"{kind.replace('_', ' ')} %\n({split})", justify="right")
    for row in table:
        cells = [_cell(row.metrics.get(task), best(table, task)) for task in found]
        drawn.add_row(_name(row), row.features, *(row.settings.get(key, "") for key in columns), *cells)
    return drawn


def _name(row: Row) -> str:
    return row.run if row.status in ("FINISHED", BASELINE) else f"{row.run} ({row.status.lower()})"


def _cell(metric: tuple[float, float, float] | None, top: float) -> str:
    if metric is None:
        return "–"
    value, low, high = (100 * number for number in metric)
    text = f"{value:.1f} [{low:.1f}, {high:.1f}]".replace("[", r"\[")
    return f"[bold]* {text}[/bold]" if metric[0] == top else text


def write_csv(table: Sequence[Row], path: Path) -> Path:
    """The table with every number in full."""
    columns, found = differing(table), tasks(table)
    heading = ["run", "features", "status", *columns]
    heading += [f"{task}/{part}" for task in found for part in ("accuracy", "low", "high")]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(heading)
        for row in table:
            numbers: list[Any] = [n for task in found for n in row.metrics.get(task, ("", "", ""))]
            writer.writerow([row.run, row.features, row.status, *(row.settings.get(k, "") for k in columns), *numbers])
    return path
