"""The paired test: exact where it can be counted, honest under no difference, and only on one test set."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from cpc.config import InputError
from cpc.evaluation.results import Count, ProbeResult
from cpc.evaluation.stats import by_cluster, over_seeds, paired

BARE = ProbeResult(
    "phone", "CPC c", 0.0, 0.0, 0.0, 0.0, 40, "train", "test", 1, 1, 1, 1, 1, True, "speech", "protocol"
)  # fmt: skip


def result(hits: list[int], totals: list[int], speakers: list[str] | None = None) -> ProbeResult:
    names = speakers or [""] * len(hits)
    counts = zip((f"u{i:03d}" for i in range(len(hits))), names, hits, totals, strict=True)
    return replace(BARE, accuracy=sum(hits) / sum(totals), utterances=tuple(Count(*count) for count in counts))


def simulated(seed: int, utterances: int = 60, better: float = 0.0) -> tuple[ProbeResult, ProbeResult]:
    """Two models on utterances of different difficulty; the first is better by so many points."""
    generator = np.random.default_rng(seed)
    totals = generator.integers(20, 100, utterances)
    difficulty = generator.beta(6, 4, utterances)
    hits = [generator.binomial(totals, np.clip(difficulty + lift, 0, 1)) for lift in (better, 0.0)]
    one, other = (result(h.tolist(), totals.tolist()) for h in hits)
    return one, other


def test_a_model_does_not_differ_from_itself() -> None:
    one, _ = simulated(0)
    same = paired(one, one)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert not same.significant


def test_all_swaps_are_counted_where_there_are_few() -> None:
    hits, others, totals = [9, 5, 7, 8], [4, 6, 2, 5], [10, 12, 9, 11]
    found = paired(result(hits, totals), result(others, totals))
    differences = []
    for swap in product((False, True), repeat=4):
        a = sum(o if s else h for s, h, o in zip(swap, hits, others, strict=True))
        differences.append(abs(2 * a - sum(hits) - sum(others)) / sum(totals))
    extreme = [d >= abs(found.difference) - 1e-12 for d in differences]
    assert found.difference == pytest.approx((29 - 17) / 42)
    assert found.p == sum(extreme) / 16


def test_it_is_antisymmetric_and_repeats_with_its_seed() -> None:
    one, other = simulated(1, better=0.02)
    there, back = paired(one, other, seed=3), paired(other, one, seed=3)
    assert (there.difference, there.p) == (-back.difference, back.p)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there == paired(one, other, seed=3)
    assert there != paired(one, other, seed=4)


def test_no_difference_is_called_one_in_a_twentieth_of_cases() -> None:
    tests = [paired(*simulated(seed, 40), replicates=400, seed=seed) for seed in range(200)]
    # The standard error of a share of 0.05 over 200 cases is 0.015.
    assert sum(test.significant for test in tests) / 200 <= 0.095
    covered = sum(test.low <= 0 <= test.high for test in tests) / 200
    assert 0.9 <= covered <= 0.99


def test_a_difference_too_small_for_two_intervals_is_found_in_pairs() -> None:
    from cpc.evaluation.stats import bootstrap_interval

    one, other = simulated(5, 200, better=0.03)
    ends = []
    for each in (one, other):
        counts = np.array([count[2:] for count in each.utterances])
        ends.append(bootstrap_interval(counts[:, 0], counts[:, 1]))
    assert ends[0][0] < ends[1][1]  # the two intervals overlap
    assert paired(one, other).p < 0.01


def test_by_speaker_whole_speakers_move() -> None:
    one, other = simulated(2, 60, better=0.02)
    speakers = [f"s{i % 5}" for i in range(60)]
    marked = [
        replace(r, utterances=tuple(c._replace(speaker=s) for c, s in zip(r.utterances, speakers, strict=True)))
        for r in (one, other)
    ]
    found = paired(marked[0], marked[1], by="speaker")
    assert found.clusters == 5
    assert found.difference == paired(one, other).difference
    assert found.p >= 2 / 2**5  # nothing smaller can come of five speakers, two-sided
    hits = np.array([count.num_correct for count in one.utterances])
    assert by_cluster(speakers, hits)[0].tolist() == [int(hits[i::5].sum()) for i in range(5)]


def test_what_cannot_be_compared_is_refused() -> None:
    one, other = simulated(0)
    with pytest.raises(InputError, match="written without its utterances"):
        paired(one, BARE)
    with pytest.raises(InputError, match="two measures"):
        paired(one, replace(other, task="speaker_frame"))
    with pytest.raises(InputError, match=r"test=test and elsewhere: 1 utterances are in only one of the two"):
        paired(one, replace(other, test="elsewhere", utterances=other.utterances[1:]))
    longer = tuple(count._replace(total=count.total + 9) for count in other.utterances)
    with pytest.raises(InputError, match="probe both with the same labels and hop"):
        paired(one, replace(other, utterances=longer))
    with pytest.raises(InputError, match="by=speaker: test has 0 of them"):
        paired(one, other, by="speaker")


def test_seeds_have_a_mean_and_a_deviation() -> None:
    assert over_seeds([0.4, 0.5, 0.6]) == pytest.approx((0.5, 0.1, 3))
    assert over_seeds([0.4]) == (0.4, None, 1)
    with pytest.raises(ValueError, match="values: empty"):
        over_seeds([])
