"""The one idea: loss = objective( score(anchor, keys) at its positive and its negatives )."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cpc.contrast.calibration import Calibration
from cpc.contrast.kinds import shares_by_kind
from cpc.contrast.negatives import Candidates, Grid, Negatives
from cpc.contrast.objectives import Objective
from cpc.contrast.scores import Score
from cpc.device import full


class Contrasted(NamedTuple):
    """One loss an anchor, whether its positive scored above every negative, and of triplets the shares by kind."""

    loss: Float[Tensor, "group anchor"]
    correct: Bool[Tensor, "group anchor"]
    kinds: Float[Tensor, "kind"] | None = None


def contrast(
    anchors: Float[Tensor, "group anchor dim"],
    keys: Float[Tensor, "group key dim"],
    positive: Int[Tensor, "anchor"],
    grid: Grid,
    *,
    score: Score,
    negatives: Negatives,
    objective: Objective,
    generator: torch.Generator | None = None,
    calibration: Calibration | None = None,
    held: Float[Tensor, "held dim"] | None = None,
) -> Contrasted:
    """Contrast each anchor with its positive key and its negatives, inside each group.

    Keys that are `held` from elsewhere are negatives of every anchor. They cannot move, so keys that could would only
    learn to differ from them, all in the same way, and the batch would collapse: what held keys add to the loss is
    for the anchors alone to learn from.
    """

    def candidates(scores: Float[Tensor, "group anchor key"]) -> Candidates:
        found = negatives(scores, positive, grid, generator)
        return found if calibration is None else _calibrated(found, calibration)

    if held is None or not len(held):
        found = candidates(score(anchors, keys))
        return Contrasted(objective(*found), _correct(found), shares_by_kind(objective, *found))
    if generator is None:
        generator = torch.Generator(keys.device).manual_seed(int(torch.randint(1 << 62, ())))
    state = generator.get_state()
    found = candidates(score(anchors, keys))
    generator.set_state(state)  # the same negatives once more
    still = candidates(score(anchors, keys.detach()))
    more = full(score(anchors, held.to(keys).expand(len(keys), -1, -1)))
    joined = _joined(still, more if calibration is None else calibration(more))
    loss = objective(*found) + objective(*joined) - objective(*still)
    return Contrasted(loss, _correct(joined), shares_by_kind(objective, *joined))


def _calibrated(found: Candidates, calibration: Calibration) -> Candidates:
    return found._replace(positive=calibration(found.positive), negatives=calibration(found.negatives))


def _joined(found: Candidates, more: Float[Tensor, "group anchor held"]) -> Candidates:
    """The candidates with more negatives."""
    mask = found.mask
    if mask is not None:
        mask = torch.cat([mask.expand(found.negatives.shape), torch.ones_like(more, dtype=torch.bool)], dim=-1)
    return Candidates(found.positive, torch.cat([found.negatives, more], dim=-1), mask)


@torch.no_grad()
def _correct(found: Candidates) -> Bool[Tensor, "group anchor"]:
    rivals = found.negatives if found.mask is None else found.negatives.masked_fill(~found.mask, -torch.inf)
    return found.positive > rivals.amax(-1)
