"""Bootstrap intervals of an accuracy whose errors come in clusters (all frames of an utterance go together), and the
spread over seeds.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

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
    frames are left out. Treating frames as independent would make the interval several times too narrow (Efron &
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
