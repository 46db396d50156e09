"""An experiment at a glance: one table of its runs, for a terminal and as CSV.

What is read from MLflow is described in `experiment`; which differences are within noise is decided in `noise`.
"""

import csv
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpc.evaluation.experiment import BASELINE, Row, best, best_row, curves, differing, is_error, rows, runs, tasks
from cpc.evaluation.noise import Seeds, over_seeds, ties
from cpc.evaluation.saved import headings
from cpc.files import room_for

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

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
