"""From the scores of a positive and its negatives to one loss an anchor.

All take (positive scores, negative scores, mask) and give one loss an anchor; a higher score means more alike. A
negative counts where `mask` is true. An anchor without any negative has a loss that asks nothing of negatives.
"""

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from cpc.config import STRICT


@dataclass(frozen=True, config=STRICT)
class InfoNCE:
    """Cross-entropy of picking the positive among itself and its negatives (van den Oord 2018, eq. 4).

    −log( e^p / (e^p + Σ e^n) ) = softplus( logsumexp(n) − p ). With scores that carry no information it is
    ln(1 + M) for M negatives. `concentration` β > 0 weighs negatives by e^{βn}, hard ones most, their weights
    averaging 1 (Robinson et al. 2021, eq. 4, without their correction for false negatives).

    >>> round(InfoNCE()(torch.zeros(1), torch.zeros(1, 7)).item(), 4)      # of 7 negatives: ln 8
    2.0794

    temperature: by which all scores are divided.
    concentration: β, how much more hard negatives weigh; 0 for alike.
    """

    temperature: Annotated[float, Field(gt=0)] = 1.0
    concentration: Annotated[float, Field(ge=0)] = 0.0
    kind: Literal["info_nce"] = "info_nce"

    def __call__(
        self,
        positive: Float[Tensor, "*anchor"],
        negatives: Float[Tensor, "*anchor negative"],
        mask: Bool[Tensor, "*#anchor negative"] | None = None,
    ) -> Float[Tensor, "*anchor"]:
        scaled = negatives if self.temperature == 1 else negatives / self.temperature
        against = logsumexp(scaled, mask)
        if self.concentration:
            beta, count = self.concentration, _count(negatives, mask)
            against = logsumexp((1 + beta) * scaled, mask) - logsumexp(beta * scaled, mask) + count.log()
            against = torch.where(count > 0, against, -math.inf)
        return F.softplus(against - positive / self.temperature)


@dataclass(frozen=True, config=STRICT)
class NCE:
    """Logistic regression of data against noise (Gutmann & Hyvärinen 2010, eq. 8; Mnih & Teh 2012, eq. 8).

    softplus(b − p) + Σ softplus(n − b) with b = `log_kq`: k negatives are drawn, each key with probability q, and the
    score is the logarithm of the normalised model. k = 128 drawn from 1024 frames: ln(128 / 1024) = −2.08. Where the
    score is the log of a density ratio p / q, as in CPC, q cancels: b = ln k, and a score of 0 knows nothing. With
    b = 0 the score is the log-odds itself, and this a plain binary cross-entropy.

    log_kq: b = ln(k q), which positives have to exceed.
    """

    log_kq: float = 0.0
    kind: Literal["nce"] = "nce"

    def __call__(
        self,
        positive: Float[Tensor, "*anchor"],
        negatives: Float[Tensor, "*anchor negative"],
        mask: Bool[Tensor, "*#anchor negative"] | None = None,
    ) -> Float[Tensor, "*anchor"]:
        return self.attract(positive) + self.repel(negatives, mask)

    def attract(self, positive: Float[Tensor, "*anchor"]) -> Float[Tensor, "*anchor"]:
        """What the positive adds."""
        return F.softplus(self.log_kq - positive)

    def repel(
        self, negatives: Float[Tensor, "*anchor negative"], mask: Bool[Tensor, "*#anchor negative"] | None = None
    ) -> Float[Tensor, "*anchor"]:
        """What the negatives add, whatever the positive."""
        return _kept(F.softplus(negatives - self.log_kq), mask).sum(-1)


@dataclass(frozen=True, config=STRICT)
class Triplet:
    """max(0, d(a, p) − d(a, n) + margin), that is max(0, n − p + margin) of scores (Schroff et al. 2015, eq. 2).

    The mean over an anchor's negatives; with `average` "active", over those that are within the margin only, so that
    easy ones do not dilute the gradient of the others.

    margin: by which the positive should win.
    average: over all negatives, or over those within the margin (active).
    """

    margin: Annotated[float, Field(ge=0)] = 0.2
    average: Literal["all", "active"] = "active"
    kind: Literal["triplet"] = "triplet"

    def __call__(
        self,
        positive: Float[Tensor, "*anchor"],
        negatives: Float[Tensor, "*anchor negative"],
        mask: Bool[Tensor, "*#anchor negative"] | None = None,
    ) -> Float[Tensor, "*anchor"]:
        excess = _kept(F.relu(negatives - positive[..., None] + self.margin), mask)
        if self.average == "active":
            return excess.sum(-1) / (excess > 0).sum(-1).clamp_min(1)
        return excess.sum(-1) / _count(negatives, mask).clamp_min(1)


@dataclass(frozen=True, config=STRICT)
class PairMargin:
    """D² for a positive pair, max(0, margin − D)² for a negative one (Hadsell, Chopra & LeCun 2006, eq. 4, twice).

    Scores are −D (`NegativeDistance`). An anchor's loss is its positive's plus the mean of its negatives'.

    margin: distance beyond which a negative pair costs nothing.
    """

    margin: Annotated[float, Field(gt=0)] = 1.0
    kind: Literal["pair_margin"] = "pair_margin"

    def __call__(
        self,
        positive: Float[Tensor, "*anchor"],
        negatives: Float[Tensor, "*anchor negative"],
        mask: Bool[Tensor, "*#anchor negative"] | None = None,
    ) -> Float[Tensor, "*anchor"]:
        return self.attract(positive) + self.repel(negatives, mask)

    def attract(self, positive: Float[Tensor, "*anchor"]) -> Float[Tensor, "*anchor"]:
        """What the positive adds."""
        return positive.square()

    def repel(
        self, negatives: Float[Tensor, "*anchor negative"], mask: Bool[Tensor, "*#anchor negative"] | None = None
    ) -> Float[Tensor, "*anchor"]:
        """What the negatives add, whatever the positive."""
        apart = _kept(F.relu(self.margin + negatives).square(), mask)
        return apart.sum(-1) / _count(negatives, mask).clamp_min(1)


def logsumexp(
    x: Float[Tensor, "*anchor negative"], mask: Bool[Tensor, "*#anchor negative"] | None
) -> Float[Tensor, "*anchor"]:
    """log Σ e^x where `mask` is true; −∞, with a gradient of 0 and not NaN, for a row without any."""
    if mask is None:
        return x.logsumexp(-1)
    some = mask.any(-1)
    kept = x.masked_fill(~mask, -math.inf).masked_fill(~some[..., None], 0.0)
    return torch.where(some, kept.logsumexp(-1), -math.inf)


def _kept(
    x: Float[Tensor, "*anchor negative"], mask: Bool[Tensor, "*#anchor negative"] | None
) -> Float[Tensor, "*anchor negative"]:
    return x if mask is None else x.masked_fill(~mask, 0.0)


def _count(
    x: Float[Tensor, "*anchor negative"], mask: Bool[Tensor, "*#anchor negative"] | None
) -> Float[Tensor, "*#anchor"]:
    """How many negatives count."""
    return x.new_full((1,) * (x.ndim - 1), x.shape[-1]) if mask is None else mask.sum(-1).to(x.dtype)


Objective = Annotated[InfoNCE | NCE | Triplet | PairMargin, Field(discriminator="kind")]


# --- Kinds of triplets by how far the negative scores below the positive (Schroff et al. 2015, section 3.2).


Mining = Literal["all", "hard", "semi_hard", "easy"]
KINDS: tuple[Mining, ...] = ("easy", "semi_hard", "hard")


def of_kind(gap: Float[Tensor, "*triplet"], mining: Mining, margin: float) -> Bool[Tensor, "*triplet"]:
    """Which triplets are of a kind, where the negative scores by `gap` below the positive (Schroff et al. 2015).

    "easy": by `margin` at least, so that they ask for nothing.
    """
    match mining:
        case "all":
            return torch.ones_like(gap, dtype=torch.bool)
        case "hard":
            return gap <= 0
        case "semi_hard":
            return (gap > 0) & (gap < margin)
        case "easy":
            return gap >= margin
    raise ValueError(f"mining={mining}: must be all, hard, semi_hard or easy")


@torch.no_grad()
def shares_by_kind(
    objective: Objective,
    positive: Float[Tensor, "*anchor"],
    negatives: Float[Tensor, "*anchor negative"],
    mask: Bool[Tensor, "*#anchor negative"] | None = None,
) -> Float[Tensor, "kind"] | None:
    """The shares of KINDS among all triplets, by the objective's margin; None where it is not of triplets."""
    if not isinstance(objective, Triplet):
        return None
    gap = positive[..., None] - negatives
    counted = torch.ones_like(gap, dtype=torch.bool) if mask is None else mask.expand(gap.shape)
    found = torch.stack([(of_kind(gap, kind, objective.margin) & counted).sum() for kind in KINDS])
    return found.float() / counted.sum().clamp_min(1)
