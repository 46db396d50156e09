"""Bootstrap intervals of an accuracy whose errors come in clusters: all frames of an utterance go together."""

import numpy as np
from jaxtyping import Int64

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

    `correct` and `total` count the frames of each utterance; utterances without frames are left out.
    Treating frames as independent would make the interval several times too narrow (Efron & Tibshirani
    1993, chapter 13, percentile intervals; Field & Welsh 2007 for whole clusters).
    """
    kept = total > 0
    if not kept.any():
        raise ValueError("total=0: there is nothing to resample; give at least one utterance with a frame")
    correct, total = correct[kept], total[kept]
    generator = np.random.default_rng(seed)
    n, block = len(total), max(1, _COUNTS_AT_ONCE // len(total))
    ratios = []
    for start in range(0, replicates, block):
        size = min(block, replicates - start)
        draws = generator.multinomial(n, np.full(n, 1 / n), size=size)  # how often each utterance was drawn
        ratios.append((draws @ correct) / (draws @ total))
    low, high = np.quantile(np.concatenate(ratios), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
