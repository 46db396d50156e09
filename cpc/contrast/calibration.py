"""What of the scores is learnt with the network: their temperature, and the constant that normalises them."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

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
