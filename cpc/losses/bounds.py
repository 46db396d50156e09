"""Bounds on mutual information from a matrix of scores whose diagonal are the true pairs.

`scores[i, j]` = f(x_i, y_j) in nats for a batch of pairs (x_i, y_i): the diagonal is drawn from the joint distribution,
the rest from the product of the marginals. All but `club` are lower bounds (in expectation) for any score, tight
for the best one; Poole et al. 2019 compare them.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from cpc.losses.objectives import logsumexp


def info_nce_bound(scores: Float[Tensor, "x y"]) -> Float[Tensor, ""]:
    """E[ f(x_i, y_i) − log 1/N Σ_j e^{f(x_i, y_j)} ] (van den Oord et al. 2018; Poole et al. 2019, eq. 10).

    Low variance, but never above ln N.
    """
    return (scores.diagonal() - scores.logsumexp(1)).mean() + math.log(_size(scores))


def nwj_bound(scores: Float[Tensor, "x y"]) -> Float[Tensor, ""]:
    """E_joint[f] − e⁻¹ E_product[e^f] (Nguyen, Wainwright & Jordan 2010; Poole et al. 2019, eq. 5).

    No ceiling, but a variance that grows with e^I. Tight for f = 1 + log p(x|y)/p(x).
    """
    return scores.diagonal().mean() - torch.exp(_log_mean_exp(scores) - 1)


def dv_bound(scores: Float[Tensor, "x y"]) -> Float[Tensor, ""]:
    """E_joint[f] − log E_product[e^f] (Donsker & Varadhan 1983): what MINE maximises (Belghazi et al. 2018, eq. 5).

    From one batch it is biased upwards: the logarithm of a mean is not the mean of logarithms.
    """
    return scores.diagonal().mean() - _log_mean_exp(scores)


def jsd_objective(scores: Float[Tensor, "x y"]) -> Float[Tensor, ""]:
    """E_joint[−softplus(−f)] − E_product[softplus(f)] (Nowozin et al. 2016; Hjelm et al. 2019, eq. 4).

    Not a bound on the information itself, but its maximiser is f = log p(x, y)/(p(x)p(y)), found with little variance:
    `nwj_bound(f + 1)` of what it finds is one (Poole et al. 2019, section 2.4).
    """
    return -F.softplus(-scores.diagonal()).mean() - F.softplus(scores)[_off_diagonal(scores)].mean()


def club_bound(log_likelihood: Float[Tensor, "x y"]) -> Float[Tensor, ""]:
    """E_joint[log q(y|x)] − E_product[log q(y|x)], an upper bound where q is the true conditional.

    Cheng et al. 2020 (CLUB), eq. 7. `log_likelihood[i, j]` = log q(y_j | x_i) in nats.
    """
    return log_likelihood.diagonal().mean() - log_likelihood[_off_diagonal(log_likelihood)].mean()


def _log_mean_exp(scores: Float[Tensor, "x y"]) -> Float[Tensor, ""]:
    """log of the mean of e^f over the pairs that do not belong together."""
    apart = _off_diagonal(scores)
    return logsumexp(scores.flatten(), apart.flatten()) - math.log(apart.sum())


def _off_diagonal(scores: Float[Tensor, "x y"]) -> Bool[Tensor, "x y"]:
    return ~torch.eye(_size(scores), dtype=torch.bool, device=scores.device)


def _size(scores: Float[Tensor, "x y"]) -> int:
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or len(scores) < 2:
        rule = "must be square, pairs on its diagonal, with at least 2 of them"
        raise ValueError(f"scores={tuple(scores.shape)}: {rule}")
    return len(scores)
