"""Laws of the bootstrap interval over utterances."""

import numpy as np
import pytest

from cpc.evaluation.stats import bootstrap_interval


def simulate(utterances: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Each utterance has a difficulty of its own: accuracy drawn from Beta(6, 4), mean 0.6, 20 to 99 frames."""
    generator = np.random.default_rng(seed)
    total = generator.integers(20, 100, utterances)
    return generator.binomial(total, generator.beta(6, 4, utterances)), total


def test_it_covers_the_truth_in_95_of_100_cases() -> None:
    trials, covered = 400, 0
    for seed in range(trials):
        low, high = bootstrap_interval(*simulate(100, seed), replicates=500, seed=seed)
        covered += low <= 0.6 <= high
    # The standard error of a share of 0.95 over 400 trials is 0.011; percentile intervals are a little narrow.
    assert 0.91 <= covered / trials <= 0.98


def test_frames_treated_as_independent_would_not_cover() -> None:
    # √(p q / n) over ~6000 frames, against a standard deviation of 0.148 between 100 utterances: 2.4 times too narrow.
    correct, total = simulate(100, 0)
    low, high = bootstrap_interval(correct, total)
    p = correct.sum() / total.sum()
    assert high - low > 1.8 * (2 * 1.96 * np.sqrt(p * (1 - p) / total.sum()))


def test_width_shrinks_with_the_root_of_the_number_of_utterances() -> None:
    def width(utterances: int) -> float:
        ends = [bootstrap_interval(*simulate(utterances, seed), replicates=500) for seed in range(12)]
        return float(np.mean([high - low for low, high in ends]))

    assert width(50) / width(800) == pytest.approx(4, rel=0.15)


def test_all_correct_and_all_wrong_have_no_width() -> None:
    total = np.array([5, 9, 2])
    assert bootstrap_interval(total, total) == (1.0, 1.0)
    assert bootstrap_interval(0 * total, total) == (0.0, 0.0)


def test_it_holds_the_estimate_and_repeats_with_its_seed() -> None:
    correct, total = simulate(60, 3)
    low, high = bootstrap_interval(correct, total, seed=7)
    assert low < correct.sum() / total.sum() < high
    assert (low, high) == bootstrap_interval(correct, total, seed=7)
    assert (low, high) != bootstrap_interval(correct, total, seed=8)


def test_empty_utterances_are_left_out() -> None:
    correct, total = simulate(30, 1)
    padded = np.append(correct, [0, 0]), np.append(total, [0, 0])
    assert bootstrap_interval(correct, total) == bootstrap_interval(*padded)
    with pytest.raises(ValueError, match="total=0"):
        bootstrap_interval(np.zeros(3, np.int64), np.zeros(3, np.int64))
