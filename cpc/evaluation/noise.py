"""Is a difference more than noise? Two results on the same test set, and several seeds of the same settings."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from cpc.config import InputError
from cpc.evaluation import interval
from cpc.evaluation.experiment import Row, best_row, tasks
from cpc.evaluation.paired import paired
from cpc.evaluation.result import ProbeResult

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


def judge(one: Row, other: Row, task: str) -> Verdict:
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
    return [row for row in others if not judge(top, row, task).significant]


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
