"""The one idea: loss = objective( score(anchor, keys) at its positive and its negatives )."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cpc.contrast.calibration import Calibration
from cpc.contrast.negatives import Candidates, Grid, Negatives
from cpc.contrast.objectives import Objective
from cpc.contrast.scores import Score


class Contrasted(NamedTuple):
    """One loss an anchor, and whether its positive scored above every negative."""

    loss: Float[Tensor, "group anchor"]
    correct: Bool[Tensor, "group anchor"]


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
) -> Contrasted:
    """Contrast each anchor with its positive key and its negatives, inside each group."""
    scores = score(anchors, keys)
    found = negatives(scores, positive, grid, generator)
    if calibration is not None:
        found = found._replace(positive=calibration(found.positive), negatives=calibration(found.negatives))
    return Contrasted(objective(*found), _correct(found))


@torch.no_grad()
def _correct(found: Candidates) -> Bool[Tensor, "group anchor"]:
    rivals = found.negatives if found.mask is None else found.negatives.masked_fill(~found.mask, -torch.inf)
    return found.positive > rivals.amax(-1)
