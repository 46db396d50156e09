"""Two runs side by side: the settings in which they differ, their results with a test, and how they were trained."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cpc.config import InputError
from cpc.curves import History, history
from cpc.evaluation.compare import heading_of, percent
from cpc.evaluation.experiment import UNCOMPARED, Row, find_run, is_error, rows_of, tasks
from cpc.evaluation.noise import Verdict, judge
from cpc.evaluation.saved import headings
from cpc.tracking import RUNS, connect

if TYPE_CHECKING:
    from rich.table import Table

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
                yield Difference(task, shown[task], one.features, *values, judge(one, other, task))


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
    judged = each.verdict
    apart = f"{100 * judged.difference:+.1f} [{100 * judged.low:+.1f}, {100 * judged.high:+.1f}]"
    verdict = f"{names[each.better - 1]} is better" if each.better else "within noise"
    p = "< 0.001" if judged.p < 0.001 else f"{judged.p:.3f}"
    task = heading_of(each.heading).replace("\n", " ")
    return [task, each.features, percent(each.one), percent(each.other), apart, p, f"{verdict} ({judged.how})"]
