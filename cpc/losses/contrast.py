"""What of the scores is learnt with the network: their temperature, and the constant that normalises them."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cpc.losses.negatives import All, Candidates, Grid, Negatives
from cpc.losses.objectives import NCE, InfoNCE, Mining, Objective, PairMargin, logsumexp, of_kind, shares_by_kind

Learnt = Literal["temperature", "normaliser"]
_STEEPEST = math.log(100.0)


class Calibration(nn.Module):
    """s → s / τ − c; it begins with τ = 1 and c = 0, beside whatever temperature the recipe fixes.

    temperature: τ is learnt as its logarithm and stays above 1/100 (Radford et al. 2021, CLIP, section 2.4).
    normaliser: c is learnt. NCE finds with it the ln Z that makes the score a normalised log-density (Gutmann &
    Hyvärinen 2010, section 2.2); in InfoNCE and the triplet loss, which look at differences, it cancels.
    """

    def __init__(self, learnt: Sequence[Learnt]) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(())) if "temperature" in learnt else None
        self.normaliser = nn.Parameter(torch.zeros(())) if "normaliser" in learnt else None

    def forward(self, scores: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if self.log_scale is not None:
            scores = scores * self.log_scale.clamp(max=_STEEPEST).exp()
        return scores if self.normaliser is None else scores - self.normaliser

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """What is learnt, as it is now."""
        found: dict[str, float] = {}
        if self.log_scale is not None:
            found["loss/temperature"] = math.exp(-min(self.log_scale.item(), _STEEPEST))
        if self.normaliser is not None:
            found["loss/normaliser"] = self.normaliser.item()
        return found


# --- The one idea: loss = objective( score(anchor, keys) at its positive and its negatives ).


class Contrasted(NamedTuple):
    """One loss an anchor, whether its positive scored above every negative, and of triplets the shares by kind."""

    loss: Float[Tensor, "*group anchor"]
    correct: Bool[Tensor, "*group anchor"]
    kinds: Float[Tensor, "kind"] | None = None


def contrast(
    anchors: Float[Tensor, "group anchor dim"],
    keys: Float[Tensor, "group key dim"],
    positive: Int[Tensor, "anchor"],
    grid: Grid,
    *,
    score: Callable[[Tensor, Tensor], Tensor],
    negatives: Negatives,
    objective: Objective,
    generator: torch.Generator | None = None,
    calibration: Calibration | None = None,
    skipped: Int[Tensor, "anchor"] | None = None,
) -> Contrasted:
    """Contrast each anchor with its positive key and its negatives, inside each group.

    `skipped`: the key of each anchor that is no negative of it, if there is one: its score is −∞.
    """
    scores = score(anchors, keys)
    if skipped is not None:
        scores = scores.scatter(-1, skipped.expand(len(scores), -1)[..., None], -torch.inf)
    found = negatives(scores, positive, grid, generator)
    if calibration is not None:
        found = found._replace(positive=calibration(found.positive), negatives=calibration(found.negatives))
    correct, kinds = _correct(found), shares_by_kind(objective, *found)
    if isinstance(negatives, All) and isinstance(objective, InfoNCE):
        weights = negatives.log_weights(positive, grid)
        if weights is not None:
            found = found._replace(negatives=found.negatives + weights * objective.temperature)
    return Contrasted(objective(*found), correct, kinds)


@torch.no_grad()
def _correct(found: Candidates) -> Bool[Tensor, "group anchor"]:
    rivals = found.negatives if found.mask is None else found.negatives.masked_fill(~found.mask, -torch.inf)
    return found.positive > rivals.amax(-1)


# --- Contrast by labels: an anchor has as many positives among the keys as share its label, or none.


Keep = Bool[Tensor, "anchor key"]


@runtime_checkable
class PairLossConfig(Protocol):
    """The settings of a loss by which pairs are told apart."""

    @property
    def objective(self) -> Objective: ...
    @property
    def mining(self) -> Mining: ...
    @property
    def margin(self) -> float: ...


class PairContrast(NamedTuple):
    """One loss an anchor, whether its best positive scored above every negative, whether it had a positive, and of
    triplets the shares by kind.
    """

    loss: Float[Tensor, "anchor"]
    correct: Bool[Tensor, "anchor"]
    valid: Bool[Tensor, "anchor"]
    kinds: Float[Tensor, "kind"] | None = None

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
) -> PairContrast:
    """Every (anchor, positive) pair goes through `objective` against the anchor's negatives; the mean over positives.

    `same` and `other` say which keys are positives and negatives of an anchor; a key may be neither (itself). For
    InfoNCE the anchor's other positives compete too, which makes it Khosla et al. 2020, eq. 2 (SupCon), and with one
    positive each Chen et al. 2020, eq. 1 (NT-Xent). `mining` keeps the negatives that score at least as high as the
    positive ("hard") or less, but within `margin` of it ("semi_hard"; Schroff et al. 2015, section 3.2).
    """
    count, kinds = same.sum(-1), None
    if mining == "all" and (each := _of_all(scores, same, other, objective)) is not None:
        loss = each.masked_fill(~same, 0.0).sum(-1)
    else:
        loss, kinds = _pair_by_pair(scores, same, other, objective, mining, margin)
    best = scores.masked_fill(~same, -torch.inf).amax(-1)
    rival = scores.masked_fill(~other, -torch.inf).amax(-1)
    return PairContrast(loss / count.clamp_min(1), (best > rival).detach(), count > 0, kinds)


def _of_all(
    scores: Float[Tensor, "anchor key"], same: Keep, other: Keep, objective: Objective
) -> Float[Tensor, "anchor key"] | None:
    """The loss of each key as a positive, where all of an anchor's share one sum over its negatives; otherwise None.

    As large as the scores, and nothing of it depends on how many pairs there are, which a GPU would have to tell.
    """
    if isinstance(objective, InfoNCE) and not objective.concentration:
        scaled = scores / objective.temperature
        return logsumexp(scaled, same | other)[:, None] - scaled
    if isinstance(objective, NCE | PairMargin):
        return objective.attract(scores) + objective.repel(scores, other)[:, None]
    return None


def _pair_by_pair(
    scores: Float[Tensor, "anchor key"], same: Keep, other: Keep, objective: Objective, mining: Mining, margin: float
) -> tuple[Float[Tensor, "anchor"], Float[Tensor, "kind"] | None]:
    """Each anchor's sum over its positives, and the shares of triplets by kind: rows of scores for every pair.

    A GPU says here how many pairs there are: the one wait in a step of training.
    """
    anchors, keys = same.nonzero(as_tuple=True)
    positive, negatives = scores[anchors, keys], scores[anchors]
    mask = other[anchors]
    kinds = shares_by_kind(objective, positive, negatives, mask)
    if isinstance(objective, InfoNCE):
        mask = (mask | same[anchors]).scatter(1, keys[:, None], False)
    mask = mask & of_kind(positive.detach()[:, None] - negatives.detach(), mining, margin)
    return scores.new_zeros(len(scores)).index_add(0, anchors, objective(positive, negatives, mask)), kinds


def contrast_labels(
    scores: Float[Tensor, "anchor key"],
    anchors: Int[Tensor, "anchor"],
    keys: Int[Tensor, "key"],
    own: Int[Tensor, "anchor"] | None,
    config: PairLossConfig,
) -> PairContrast:
    """`contrast_pairs` of keys that share the anchor's label with those that have another, as `config` says."""
    same, other = by_label(anchors, keys, own)
    return contrast_pairs(scores, same, other, config.objective, config.mining, config.margin)


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
