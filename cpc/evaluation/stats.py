"""Bootstrap intervals of an accuracy whose errors come in clusters (all frames of an utterance go together), and the
spread over seeds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from cpc.config import InputError
from cpc.evaluation.results import ProbeResult

Counts = Int64[np.ndarray, " _"]

_COUNTS_AT_ONCE = 1 << 22  # bounds the memory of the resampling counts to 32 MiB


def bootstrap_interval(
    correct: Int64[np.ndarray, " utterance"],
    total: Int64[np.ndarray, " utterance"],
    *,
    replicates: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of Σ correct / Σ total when whole utterances are drawn with replacement.

    `correct` and `total` count the frames of each utterance (or of each speaker: see `by_cluster`); those without
    frames are skipped. Treating frames as independent would make the interval several times too narrow (Efron &
    Tibshirani 1993, chapter 13, percentile intervals; Field & Welsh 2007 for whole clusters).
    """
    kept = total > 0
    if not kept.any():
        raise ValueError("total=0: there is nothing to resample; give at least one utterance with a frame")
    correct, total = correct[kept], total[kept]
    ratios = [(draws @ correct) / (draws @ total) for draws in resamplings(len(total), replicates, seed)]
    return percentiles(np.concatenate(ratios), level)


def resamplings(clusters: int, replicates: int, seed: int) -> Iterator[Int64[np.ndarray, "replicate cluster"]]:
    """How often each cluster is drawn in each replicate, some replicates at a time."""
    generator, block = np.random.default_rng(seed), max(1, _COUNTS_AT_ONCE // clusters)
    for start in range(0, replicates, block):
        size = min(block, replicates - start)
        yield generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=size)


def percentiles(values: Float64[np.ndarray, " replicate"], level: float = 0.95) -> tuple[float, float]:
    """The central share `level` of the values."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def by_cluster(names: Sequence[str], *counts: Counts) -> list[Int64[np.ndarray, " cluster"]]:
    """Sums over the utterances of each name (of a speaker, say), in the order of the names."""
    place = np.unique(np.array(names), return_inverse=True)[1]
    return [np.bincount(place, count).astype(np.int64) for count in counts]


class OverSeeds(NamedTuple):
    """Mean and sample standard deviation over seeds; the deviation of a single seed is unknown, not 0."""

    mean: float
    deviation: float | None
    seeds: int


def over_seeds(values: Sequence[float]) -> OverSeeds:
    """The spread of one number over several seeds."""
    if not values:
        raise ValueError("values: empty; give the number of at least one seed")
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return OverSeeds(float(np.mean(values)), deviation, len(values))


# --- Do two models differ on the same test set? The difference, its interval, and a permutation test, pair by pair.


Cluster = Literal["utterance", "speaker"]
REPLICATES = 10_000
_LENGTHS = 0.05  # share by which two front ends may differ in the frames of one utterance
_FRAMES = 4  # and in any case by so many, at the ends

Places = Int64[np.ndarray, "..."]
UtteranceCounts = Int64[np.ndarray, "four cluster"]  # correct and total of one, correct and total of the other


@dataclass(frozen=True)
class PairedTest:
    """Accuracy of the first less that of the second, with its 95% interval and two-sided p value.

    `clusters` is how many utterances or speakers (`by`) the test rests on.
    """

    difference: float
    low: float
    high: float
    p: float
    clusters: int
    by: Cluster

    @property
    def significant(self) -> bool:
        """True where the difference is not within noise, at 5%."""
        return self.p < 0.05


def paired(
    one: ProbeResult, other: ProbeResult, *, by: Cluster = "utterance", replicates: int = REPLICATES, seed: int = 0
) -> PairedTest:
    """Compare two results on the same test set.

    Raises InputError if they are not comparable: another task, other utterances, other labels, or results that were
    written without their utterances.
    """
    _check(one, other)
    counts = np.array([[c.num_correct for c in one.utterances], [c.total for c in one.utterances],
                       [c.num_correct for c in other.utterances], [c.total for c in other.utterances]])  # fmt: skip
    if by == "speaker":
        known = np.array([c.speaker != "" for c in one.utterances], dtype=bool)
        counts = np.stack(by_cluster([c.speaker for c in one.utterances if c.speaker], *counts[:, known]))
    counts = counts[:, (counts[1] > 0) & (counts[3] > 0)]
    if counts.shape[1] < 2:
        raise InputError(f"by={by}: {one.test} has {counts.shape[1]} of them with examples; a test needs at least two")
    observed = float(_difference(counts.sum(1)[:, None])[0])
    draws = [_difference(counts @ drawn.T) for drawn in resamplings(counts.shape[1], replicates, seed)]
    low, high = percentiles(np.concatenate(draws))
    p = _permutation(counts, replicates, seed)
    return PairedTest(observed, low, high, p, counts.shape[1], by)


def _difference(sums: Int64[np.ndarray, "four *replicate"]) -> Float64[np.ndarray, "*replicate"]:
    return np.asarray(sums[0] / sums[1] - sums[2] / sums[3], dtype=np.float64)


def _permutation(counts: UtteranceCounts, replicates: int, seed: int) -> float:
    """Share of the swaps, pair by pair, that differ at least as much: of all swaps if they are few, else of drawn ones.

    Drawn swaps count the observed one, so that p is never 0.
    """
    from scipy.stats import permutation_test  # here: it takes half a second to load

    clusters = counts.shape[1]
    correct, total = np.concatenate([counts[:2], counts[2:]], axis=1)  # of both models, one after the other

    def apart(one: Places, other: Places, axis: int) -> Any:
        sums = (correct[one], total[one], correct[other], total[other])
        return np.abs(_difference(np.stack([each.sum(axis) for each in sums])))

    places = np.arange(2 * clusters)
    found = permutation_test(
        (places[:clusters], places[clusters:]),
        apart,
        permutation_type="samples",
        vectorized=True,
        n_resamples=replicates,
        batch=max(1, (1 << 20) // clusters),  # swaps at once: 0.1 GB
        alternative="greater",
        rng=np.random.default_rng([seed, 1]),
    )
    return float(found.pvalue)


def _check(one: ProbeResult, other: ProbeResult) -> None:
    for result in (one, other):
        if not result.utterances:
            rule = "was written without its utterances; probe again with this version"
            raise InputError(f"{result.task} of {result.features}: {rule}")
    if one.task != other.task:
        raise InputError(f"task={one.task} and {other.task}: two measures; compare results of one task")
    ids, others = ([count.id for count in result.utterances] for result in (one, other))
    if ids != others:
        counts = f"{len(set(ids) ^ set(others))} utterances are in only one of the two"
        rule = "a paired test needs the same test set; probe both on one"
        raise InputError(f"test={one.test} and {other.test}: {counts}: {rule}")
    for a, b in zip(one.utterances, other.utterances, strict=True):
        if abs(a.total - b.total) > max(_FRAMES, _LENGTHS * a.total):
            counts = f"{a.id} has {a.total} examples in one and {b.total} in the other"
            raise InputError(f"test={one.test}: {counts}; probe both with the same labels and hop")
