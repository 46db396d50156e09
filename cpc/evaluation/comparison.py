"""What `cpc compare` does: an experiment as a table with its files, or two runs side by side."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cpc.config import InputError
from cpc.curves import draw
from cpc.evaluation import compare
from cpc.tracking import RUNS

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Shown:
    """Tables for the terminal, then lines."""

    tables: "list[Table]"
    lines: list[str]


@dataclass(frozen=True)
class Wishes:
    """What else is wanted of an experiment: a page, and its best model under a name in the registry."""

    html: Path | None = None
    register: str | None = None
    alias: str | None = None
    by: str | None = None


def show(names: list[str], out: Path, wishes: Wishes | None = None, root: Path = RUNS) -> Shown:
    """One name is an experiment, two are runs (a folder, a name, or an MLflow id each); files are written to `out`.

    Raises:
        InputError: unknown names, more than two, or a wish that needs an experiment for two runs.
    """
    wishes = wishes or Wishes()
    if len(names) == 1:
        if (Path(names[0]) / "run.json").is_file():
            raise InputError(f"compare={names[0]}: is one run; give two runs, or the name of an experiment")
        return experiment(names[0], out, wishes, root)
    if len(names) != 2:
        raise InputError(f"compare={' '.join(names)}: give one experiment, or two runs")
    if wishes != Wishes():
        raise InputError(f"compare={' '.join(names)}: --html, --register, --alias and --by are for one experiment")
    return two_runs(names[0], names[1], out, root)


def experiment(name: str, out: Path, wishes: Wishes, root: Path = RUNS) -> Shown:
    """The runs of an experiment: a table, seeds summed up, CSV, curves, and what else is wished."""
    if (wishes.alias or wishes.by) and not wishes.register:
        raise InputError("register: --alias and --by say how a model is registered; name it with --register NAME")
    rows = compare.rows(name, root)
    tables = [compare.render(rows, f"experiment {name}: with 95% intervals"), compare.render_seeds(rows)]
    out.mkdir(parents=True, exist_ok=True)
    lines = [f"table: {compare.write_csv(rows, out / f'compare-{_letters(name)}.csv')}"]
    if curves := compare.curves(rows, root):
        lines.append(f"training curves: {draw(curves, out / f'compare-{_letters(name)}.png')}")
    if wishes.html:
        from cpc.evaluation.report import write_report

        lines.append(f"page: {write_report(name, wishes.html, root)}")
    if wishes.register:
        from cpc.evaluation.registry import register, sentence

        lines.append(sentence(register(rows, wishes.register, wishes.alias, wishes.by, root)))
    return Shown([table for table in tables if table], lines)


def two_runs(one: str, other: str, out: Path, root: Path = RUNS) -> Shown:
    """Two runs side by side, and their curves in one picture."""
    from cpc.evaluation.versus import render_versus, versus

    found = versus(one, other, root)
    path = out / f"compare-{'-'.join(_letters(name) for name in found.names)}.png"
    lines = [f"training curves: {draw(found.curves, path)}"]
    lines.append("tested are these two trained models; another seed of either is another model")
    return Shown(render_versus(found), lines)


def _letters(name: str) -> str:
    """A name as a part of a file's."""
    return re.sub(r"[^\w.-]+", "_", name)
