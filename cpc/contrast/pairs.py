"""Contrast by labels: an anchor has as many positives among the keys as share its label, or none."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cpc.contrast.objectives import InfoNCE, Objective

Mining = Literal["all", "hard", "semi_hard", "easy"]
Keep = Bool[Tensor, "anchor key"]


class Paired(NamedTuple):
    """One loss an anchor, whether its best positive scored above every negative, and whether it had a positive."""

    loss: Float[Tensor, "anchor"]
    correct: Bool[Tensor, "anchor"]
    valid: Bool[Tensor, "anchor"]

    @property
    def mean(self) -> Float[Tensor, ""]:
        """Over the anchors that have a positive; 0 where none has."""
        return self.loss.masked_fill(~self.valid, 0.0).sum() / self.valid.sum().clamp_min(1)

    @property
    def accuracy(self) -> Float[Tensor, ""]:
        """Over the same anchors."""
        return (self.correct & self.valid).float().sum() / self.valid.sum().clamp_min(1)


def contrast_pairs(
    scores: Float[Tensor, "anchor key"],
    same: Keep,
    other: Keep,
    objective: Objective,
    mining: Mining = "all",
    margin: float = 0.2,
) -> Paired:
    """Every (anchor, positive) pair goes through `objective` against the anchor's negatives; the mean over positives.

    `same` and `other` say which keys are positives and negatives of an anchor; a key may be neither (itself). For
    InfoNCE the anchor's other positives compete too, which makes it Khosla et al. 2020, eq. 2 (SupCon), and with one
    positive each Chen et al. 2020, eq. 1 (NT-Xent). `mining` keeps the negatives that score at least as high as the
    positive ("hard") or less, but within `margin` of it ("semi_hard"; Schroff et al. 2015, section 3.2).
    """
    anchors, keys = same.nonzero(as_tuple=True)
    positive, negatives = scores[anchors, keys], scores[anchors]
    mask = other[anchors]
    if isinstance(objective, InfoNCE):
        mask = mask | same[anchors]
        mask[torch.arange(len(keys), device=keys.device), keys] = False
    mask = mask & of_kind(positive.detach()[:, None] - negatives.detach(), mining, margin)
    count = same.sum(-1)
    loss = scores.new_zeros(len(scores)).index_add(0, anchors, objective(positive, negatives, mask))
    best = scores.masked_fill(~same, -torch.inf).amax(-1)
    rival = scores.masked_fill(~other, -torch.inf).amax(-1)
    return Paired(loss / count.clamp_min(1), (best > rival).detach(), count > 0)


def by_label(
    anchors: Int[Tensor, "anchor"], keys: Int[Tensor, "key"], own: Int[Tensor, "anchor"] | None = None
) -> tuple[Keep, Keep]:
    """Keys of the anchor's label, and keys of another. A negative label is unknown: neither, for anyone.

    `own`: the place of each anchor among the keys, which is left out.
    """
    known = (anchors >= 0)[:, None] & (keys >= 0)
    same = (anchors[:, None] == keys) & known
    if own is not None:
        same = same.scatter(1, own[:, None], False)
    return same, (anchors[:, None] != keys) & known


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
