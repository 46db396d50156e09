"""Spread and collapse: laws of alignment, uniformity and effective rank; collapse is named, health is not."""

import math

import pytest
import torch

from cpc.models import collapse as spread
from cpc.models.collapse import alignment, collapse, effective_rank, measure, uniformity


def gaussian(vectors: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(vectors, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_alignment_is_the_squared_chord_whatever_the_lengths() -> None:
    x = torch.eye(4, dtype=torch.float64)[:2]
    assert alignment(x, 7 * x) == pytest.approx(0)
    assert alignment(x, x.flip(0)) == pytest.approx(2)
    assert alignment(x, -x) == pytest.approx(4)


def test_uniformity_equals_the_sum_over_pairs() -> None:
    x = gaussian(7, 3)
    unit = x / x.norm(dim=1, keepdim=True)
    pairs = [math.exp(-2 * float((unit[i] - unit[j]).square().sum())) for i in range(7) for j in range(7) if i != j]
    assert uniformity(x) == pytest.approx(math.log(sum(pairs) / len(pairs)), abs=1e-5)


def test_uniformity_between_one_point_and_all_directions() -> None:
    assert uniformity(torch.ones(9, 5)) == pytest.approx(0, abs=1e-5)
    assert uniformity(gaussian(3000, 512)) == pytest.approx(-4, abs=0.05)  # ‖x − y‖² → 2 for random directions
    assert math.isnan(uniformity(torch.ones(1, 5)))


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_effective_rank_counts_equal_directions(rank: int) -> None:
    """Singular values that are all equal: ± each of `rank` orthogonal axes, turned at random."""
    axes, _ = torch.linalg.qr(gaussian(8, 8))
    x = torch.cat([axes[:rank], -axes[:rank]])
    assert effective_rank(x) == pytest.approx(rank, abs=1e-5)
    assert effective_rank(x * 100 + 5) == pytest.approx(rank, abs=1e-4)  # neither scale nor mean matters


def test_effective_rank_is_the_exponential_of_the_entropy() -> None:
    """Deviations 3 and 1 along two axes: p = (3/4, 1/4)."""
    x = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert effective_rank(x) == pytest.approx(math.exp(entropy), abs=1e-6)
    assert effective_rank(torch.ones(6, 4)) == 0


def test_measure_of_known_variances() -> None:
    """Three dimensions around a mean of 2: variances 0, 1 and 4."""
    x = torch.tensor([[2.0, 1.0, 0.0], [2.0, 3.0, 4.0]])
    found = measure(x)
    assert (found.lowest, found.median, found.highest) == pytest.approx((0, 1, 4))
    assert found.dead == pytest.approx(1 / 3)
    assert found.variation == pytest.approx(5 / (5 + 3 * 2**2))


def test_what_is_not_finite_has_no_spread_and_no_verdict() -> None:
    found = measure(torch.tensor([[1.0, math.nan], [0.0, 1.0]]))
    assert all(math.isnan(value) for value in found)
    assert collapse("z", found, 2) is None


def test_collapse_is_named_and_health_is_not() -> None:
    assert collapse("c", measure(gaussian(500, 64)), 64) is None
    constant = torch.ones(50, 64) + 1e-4 * gaussian(50, 64)
    assert "collapsed to one vector" in str(collapse("z", measure(constant), 64))
    line = gaussian(500, 1) @ gaussian(1, 64, 1)
    assert "1.0 of 64 directions" in str(collapse("z", measure(line), 64))
    mostly_dead = gaussian(500, 64)
    mostly_dead[:, :60] = 1.0
    assert "94% of the dimensions of c are dead" in str(collapse("c", measure(mostly_dead), 64))


def test_a_loss_at_chance_is_named() -> None:
    ceiling = math.log(129)
    assert spread.chance(ceiling - 0.5, ceiling) is None
    assert "at chance (4.860, ln(1 + M) = 4.860)" in str(spread.chance(ceiling, ceiling))


def test_metrics_have_names_that_mlflow_groups() -> None:
    names = spread.metrics("c", measure(gaussian(50, 4)))
    assert {"spread/c/uniformity", "spread/c/effective_rank", "spread/c/variance/median"} <= names.keys()
    assert len(names) == len(spread.Spread._fields)
