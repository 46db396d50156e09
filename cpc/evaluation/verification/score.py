"""From scores to error rates: EER and minimum detection cost, with intervals over speakers.

A threshold accepts the trials that score at least as much. It misses a share of the targets and lets a share of the
non-targets through; both as functions of the threshold are the detection error trade-off (Martin et al. 1997).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from cpc.evaluation.interval import percentiles, resamplings
from cpc.evaluation.protocol import REPLICATES

PRIORS = (0.05, 0.01)  # of a target: that of VoxSRC, and the one that NIST's plans and Kaldi's recipes have
_VALUES_AT_ONCE = 1 << 16  # of resampled weights: half a MiB, which the cache of a processor holds

Scores = Float[np.ndarray, " trial"]
Target = Bool[np.ndarray, " trial"]
Rates = Float64[np.ndarray, "*draw point"]
Each = Float64[np.ndarray, "*draw"]


class Estimate(NamedTuple):
    """A number and its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """EER, 0 to 1, and the minimum cost for each prior of a target."""

    eer: Estimate
    min_dcf: Mapping[float, Estimate]


def detection_errors(
    scores: Scores, target: Target, weights: Float[np.ndarray, " trial"] | None = None
) -> tuple[Rates, Rates]:
    """Shares of false alarms and of misses, from the threshold that accepts all trials to the one that rejects all."""
    from sklearn.metrics import det_curve

    false_alarm, miss, _ = det_curve(target, scores, sample_weight=weights)
    return np.concatenate([[1.0], false_alarm, [0.0]]), np.concatenate([[0.0], miss, [1.0]])


def equal_error_rate(false_alarm: Rates, miss: Rates) -> Each:
    """Where false alarms and misses are equally frequent, on the straight line between the two nearest thresholds.

    The points are in the order of rising thresholds, for one list of trials or for each of several draws.
    """
    apart = false_alarm - miss
    after = np.argmax(apart <= 0, axis=-1)[..., None]  # never the first point, which accepts all
    ahead, behind = (np.take_along_axis(apart, place, -1) for place in (after - 1, after))
    left, right = (np.take_along_axis(miss, place, -1) for place in (after - 1, after))
    rate: Each = (left + ahead / (ahead - behind) * (right - left))[..., 0]
    return rate


def min_cost(false_alarm: Rates, miss: Rates, prior: float) -> Each:
    """The least expected cost over all thresholds, divided by that of the better of accepting or rejecting all.

    A miss and a false alarm cost 1 each. So minDCF = min (P · miss + (1 − P) · false alarm) / min(P, 1 − P), at most
    1: the detection cost of NIST's speaker recognition evaluations (their plans of 2008 and 2010, with other costs
    and priors; van Leeuwen & Brümmer 2007).
    """
    costs = prior * miss + (1 - prior) * false_alarm
    least: Each = np.asarray(costs.min(-1) / min(prior, 1 - prior))
    return least


def summarise(
    scores: Scores,
    target: Target,
    speakers: Int64[np.ndarray, "2 trial"],
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Summary:
    """EER and minimum costs of a list of trials, with percentile intervals over speakers.

    Speakers are drawn with replacement. A target trial then counts as often as its speaker was drawn, a non-target
    trial as often as the product of its two speakers' counts: trials that share a speaker vary together, on either
    side of the pair (Owen 2007, the pigeonhole bootstrap; Poh, Martin & Bengio 2007 draw users, too). Draws without
    any trial of one of the kinds are left out; with two speakers that is every second one. A draw has fewer different
    speakers, for which a threshold fits better by chance: intervals of minimum costs reach further down than up.
    """
    errors = detection_errors(scores, target)
    draws = [_measures(*drawn) for drawn in _Resampled(scores, target, speakers).curves(replicates, seed)]
    found = [
        Estimate(float(value), *percentiles(column))
        for value, column in zip(_measures(*errors), np.concatenate(draws, axis=1), strict=True)
    ]
    return Summary(found[0], dict(zip(PRIORS, found[1:], strict=True)))


def _measures(false_alarm: Rates, miss: Rates) -> Float64[np.ndarray, "measure *draw"]:
    return np.stack([equal_error_rate(false_alarm, miss), *(min_cost(false_alarm, miss, prior) for prior in PRIORS)])


class _Resampled:
    """What `detection_errors` gives, for many weightings of the same trials: they are sorted once."""

    def __init__(self, scores: Scores, target: Target, speakers: Int64[np.ndarray, "2 trial"]) -> None:
        order = np.argsort(scores, kind="stable")
        self.target = target[order]
        self.speakers = np.unique(speakers[:, order], return_inverse=True)[1].reshape(2, -1)
        self.last = np.flatnonzero(np.diff(scores[order], append=np.inf))  # of each score, where several are equal

    def curves(self, replicates: int, seed: int) -> Iterator[tuple[Rates, Rates]]:
        """Shares of false alarms and of misses, some draws at a time, without those that lack one kind of trials."""
        size = max(1, _VALUES_AT_ONCE // len(self.target))
        for block in resamplings(int(self.speakers.max()) + 1, replicates, seed):
            for start in range(0, len(block), size):
                yield self._curve(block[start : start + size].astype(np.float64))

    def _curve(self, drawn: Float64[np.ndarray, "draw speaker"]) -> tuple[Rates, Rates]:
        first = drawn[:, self.speakers[0]]
        rejected = np.cumsum(np.where(self.target, first, 0), axis=1)
        passed = np.cumsum(np.where(self.target, 0, first * drawn[:, self.speakers[1]]), axis=1)
        both = (rejected[:, -1] > 0) & (passed[:, -1] > 0)
        shares = []
        for counts in (passed[both], rejected[both]):
            below = np.concatenate([np.zeros((len(counts), 1)), counts[:, self.last]], axis=1)
            shares.append(below / counts[:, -1:])
        return 1 - shares[0], shares[1]
