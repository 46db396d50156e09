"""Kinds of triplets by how far the negative scores below the positive (Schroff et al. 2015, section 3.2)."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cpc.contrast.objectives import Objective, Triplet

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
