"""On correlated Gaussians the information is known: −D/2 · ln(1 − ρ²) for D independent pairs of correlation ρ."""

import math

import pytest
import torch
from torch import Tensor

from cpc.losses.bounds import club_bound, dv_bound, info_nce_bound, jsd_objective, nwj_bound

DIM = 4


def information(rho: float) -> float:
    return -DIM / 2 * math.log(1 - rho**2)


def log_likelihood(rho: float, batch: int, seed: int) -> tuple[Tensor, Tensor]:
    """log p(y_j | x_i) and the best score log p(y_j | x_i)/p(y_j), for pairs drawn with correlation ρ."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, DIM, generator=generator, dtype=torch.float64)
    y = rho * x + math.sqrt(1 - rho**2) * torch.randn(batch, DIM, generator=generator, dtype=torch.float64)
    spread = 1 - rho**2
    conditional = -((y[None] - rho * x[:, None]) ** 2 / spread + math.log(2 * math.pi * spread)).sum(-1) / 2
    marginal = -(y**2 + math.log(2 * math.pi)).sum(-1) / 2
    return conditional, conditional - marginal[None]


def mean(values: list[Tensor]) -> tuple[float, float]:
    """Mean over batches and its standard error."""
    stacked = torch.stack(values)
    return float(stacked.mean()), float(stacked.std() / math.sqrt(len(values)))


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6])
def test_the_bounds_bracket_the_information(rho: float) -> None:
    drawn = [log_likelihood(rho, 256, seed) for seed in range(40)]
    truth = information(rho)
    info, info_error = mean([info_nce_bound(best) for _, best in drawn])
    nwj, nwj_error = mean([nwj_bound(best + 1) for _, best in drawn])
    club, club_error = mean([club_bound(likelihood) for likelihood, _ in drawn])
    assert truth - 0.1 < info < truth + 3 * info_error + 1e-9
    assert abs(nwj - truth) < 4 * nwj_error + 1e-9  # tight at its best score
    assert club > truth - 3 * club_error - 1e-9
    assert truth > 0 or abs(club) < 4 * club_error + 1e-9


def test_a_worse_score_gives_a_lower_bound() -> None:
    drawn = [log_likelihood(0.6, 256, seed)[1] for seed in range(20)]
    best, worse = (mean([info_nce_bound(scale * scores) for scores in drawn])[0] for scale in (1.0, 0.3))
    assert worse < best - 0.1
    best, worse = (mean([nwj_bound(scale * scores + 1) for scores in drawn])[0] for scale in (1.0, 0.3))
    assert worse < best - 0.1


def test_info_nce_saturates_at_the_logarithm_of_the_batch() -> None:
    scores = log_likelihood(0.99, 16, 0)[1]
    assert information(0.99) > 2 * math.log(16)
    assert math.log(16) - 0.2 < float(info_nce_bound(scores)) <= math.log(16)


def test_donsker_varadhan_lies_above_nwj_for_the_same_score() -> None:
    # log x ≤ x/e for every x > 0, with equality at e: the two differ by just that.
    for seed in range(5):
        scores = log_likelihood(0.5, 64, seed)[1]
        assert float(dv_bound(scores)) >= float(nwj_bound(scores)) - 1e-12


def test_jsd_is_highest_at_the_log_ratio() -> None:
    def value(scale: float, shift: float) -> float:
        return mean([jsd_objective(scale * log_likelihood(0.6, 256, seed)[1] + shift) for seed in range(30)])[0]

    best = value(1, 0)
    assert all(value(scale, shift) < best for scale, shift in ((0.7, 0), (1.4, 0), (1, 0.4), (1, -0.4)))


def test_scores_must_be_square() -> None:
    with pytest.raises(ValueError, match="square"):
        info_nce_bound(torch.zeros(2, 3))
