"""EER, minimum cost and their intervals: against loops over thresholds, Gaussians, and draws whose truth is known."""

from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
from jaxtyping import Bool, Float, Int64

from cpc.evaluation.verification import PRIORS, detection_errors, equal_error_rate, min_cost, summarise

phi = NormalDist().cdf


def points(scores: list[float], target: list[bool], weights: list[float]) -> list[tuple[float, float]]:
    """False alarms and misses, one threshold after the other, each by a loop over all trials."""
    totals = {kind: sum(w for w, t in zip(weights, target, strict=True) if t is kind) for kind in (True, False)}
    found = []
    for threshold in [*sorted(set(scores)), float("inf")]:
        alarm = miss = 0.0
        for score, is_target, weight in zip(scores, target, weights, strict=True):
            if is_target and score < threshold:
                miss += weight
            elif not is_target and score >= threshold:
                alarm += weight
        found.append((alarm / totals[False], miss / totals[True]))
    return found


def slow_eer(found: list[tuple[float, float]]) -> float:
    """Where the line through neighbouring points meets the diagonal."""
    for (alarm, miss), (next_alarm, next_miss) in pairwise(found):
        if next_alarm <= next_miss:
            share = (alarm - miss) / ((alarm - miss) + (next_miss - next_alarm))
            return alarm + share * (next_alarm - alarm)
    raise ValueError("rejecting all misses all")


def slow_cost(found: list[tuple[float, float]], prior: float) -> float:
    return min(prior * miss + (1 - prior) * alarm for alarm, miss in found) / min(prior, 1 - prior)


def few_trials(seed: int) -> tuple[Float[np.ndarray, " trial"], Bool[np.ndarray, " trial"]]:
    """50 trials with many equal scores."""
    generator = np.random.default_rng(seed)
    target = np.arange(50) < generator.integers(5, 45)
    return np.round(generator.normal(size=50) + target, 1), generator.permutation(target)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("weighted", [False, True])
def test_rates_are_those_of_a_loop_over_thresholds(seed: int, weighted: bool) -> None:
    scores, target = few_trials(seed)
    weights = np.random.default_rng(seed).integers(1, 4, 50).astype(float) if weighted else np.ones(50)
    found = points(scores.tolist(), target.tolist(), weights.tolist())
    errors = detection_errors(scores, target, weights if weighted else None)
    assert equal_error_rate(*errors) == pytest.approx(slow_eer(found))
    for prior in (*PRIORS, 0.5, 0.9):
        assert min_cost(*errors, prior) == pytest.approx(slow_cost(found, prior))


@pytest.mark.parametrize("apart", [0.5, 1, 2, 3])
def test_two_gaussians(apart: float) -> None:
    """Scores of unit variance, d' apart: at the middle both errors are Φ(−d'/2).

    The scores are quantiles of the two distributions, which leaves no chance in them.
    """
    scores = np.array([NormalDist().inv_cdf((i + 0.5) / 2000) for i in range(2000)])
    errors = detection_errors(np.concatenate([scores + apart, scores]), np.arange(4000) < 2000)
    assert equal_error_rate(*errors) == pytest.approx(phi(-apart / 2), abs=1e-3)
    prior = 0.2  # the best threshold is where (1 − P) n(t) = P n(t − d'): t = d'/2 + ln((1 − P)/P)/d'
    best = apart / 2 + np.log((1 - prior) / prior) / apart
    cost = (prior * phi(best - apart) + (1 - prior) * phi(-best)) / prior
    assert min_cost(*errors, prior) == pytest.approx(cost, abs=4e-3)


def test_only_the_order_of_the_scores_counts() -> None:
    scores, target = few_trials(3)
    speakers = np.stack([np.arange(50) % 5, np.where(target, np.arange(50), np.arange(50) + 1) % 5])
    assert summarise(scores, target, speakers) == summarise(np.exp(3 * scores) - 7, target, speakers)
    assert summarise(scores, target, speakers) != summarise(-scores, target, speakers)
    assert equal_error_rate(*detection_errors(-scores, target)) == pytest.approx(
        1 - equal_error_rate(*detection_errors(scores, target)), abs=0.05
    )


def test_perfect_scores_and_constant_scores() -> None:
    target = np.arange(40) < 15
    perfect = detection_errors(target.astype(float), target)
    assert equal_error_rate(*perfect) == 0
    constant = detection_errors(np.zeros(40), target)
    assert equal_error_rate(*constant) == 0.5
    for prior in PRIORS:
        assert min_cost(*perfect, prior) == 0
        assert min_cost(*constant, prior) == 1


def simulated(
    generator: np.random.Generator, apart: float = 2.0, between: float = 0.7, speakers: int = 20
) -> tuple[Float[np.ndarray, " trial"], Bool[np.ndarray, " trial"], Int64[np.ndarray, "2 trial"]]:
    """Scores of a target trial: apart + effect of its speaker + noise; else: both speakers' effects + noise."""
    own, other = between * generator.normal(size=(2, speakers))
    alike = np.repeat(np.arange(speakers), 20)
    one, two = np.repeat(np.stack(np.triu_indices(speakers, 1)), 3, axis=1)
    scores = np.concatenate([apart + own[alike], other[one] + other[two]])
    sides = np.stack([np.append(alike, one), np.append(alike, two)])
    return scores + generator.normal(size=len(scores)), np.arange(len(scores)) < len(alike), sides


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """For all speakers, targets scatter by √(1 + b²) and others by √(1 + 2b²): EER = Φ(−apart / their sum).

    40 draws of 20 speakers, 95% each: fewer than 34 hits have a probability below 1%. The mean width is that of a
    normal distribution with the EER's own standard deviation over the draws. Single trials, drawn one by one, would
    give intervals that miss much more often.
    """
    truth = phi(-2 / (np.sqrt(1 + 0.7**2) + np.sqrt(1 + 2 * 0.7**2)))
    hits = alone = 0
    values, widths = [], []
    for seed in range(40):
        scores, target, sides = simulated(np.random.default_rng(seed))
        found = summarise(scores, target, sides, seed=seed, replicates=400).eer
        hits += found.low <= truth <= found.high
        values.append(found.value)
        widths.append(found.high - found.low)
        trial = np.tile(np.arange(len(scores)), (2, 1))  # each trial a speaker of its own
        single = summarise(scores, target, trial, seed=seed, replicates=100).eer
        alone += single.low <= truth <= single.high
    assert hits >= 34
    assert alone < 30
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(values), rel=0.25)


def test_noise_is_half_and_within_the_interval() -> None:
    hits = 0
    for seed in range(10):
        generator = np.random.default_rng(seed)
        _, target, sides = simulated(generator)
        found = summarise(generator.normal(size=len(target)), target, sides, seed=seed, replicates=400)
        hits += found.eer.low <= 0.5 <= found.eer.high
        assert found.eer.value == pytest.approx(0.5, abs=0.08)
    assert hits >= 8


def test_replicates_are_what_weights_give() -> None:
    """A draw is a weighting: targets by their speaker's count, the others by the product of two counts."""
    scores, target, sides = simulated(np.random.default_rng(1), speakers=6)
    scores = np.round(scores, 1)
    drawn = np.random.default_rng(7).multinomial(6, np.full(6, 1 / 6), size=300)
    rates = []
    for counts in drawn:
        weights = np.where(target, counts[sides[0]], counts[sides[0]] * counts[sides[1]])
        if weights[target].any() and weights[~target].any():
            rates.append(float(equal_error_rate(*detection_errors(scores, target, weights.astype(float)))))
    found = summarise(scores, target, sides, seed=7, replicates=300)
    assert (found.eer.low, found.eer.high) == pytest.approx(tuple(np.quantile(rates, [0.025, 0.975])))


def test_draws_without_one_kind_are_left_out() -> None:
    """Two speakers: half of the draws are one of them alone, without a non-target trial."""
    target = np.array([True, True, False, False])
    sides = np.array([[0, 1, 0, 0], [0, 1, 1, 1]])
    found = summarise(np.array([1.0, 0.4, 0.5, 0.1]), target, sides)
    assert all(np.isfinite(found.eer))
    assert found == summarise(np.array([1.0, 0.4, 0.5, 0.1]), target, sides)
    assert found.min_dcf.keys() == set(PRIORS)
