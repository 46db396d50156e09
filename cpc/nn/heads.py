"""The prediction heads W_1 … W_K: from c_t to what z_{t+k} should be."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


class Bilinear(nn.Module):
    """One matrix a step, all in one parameter: prediction k is W_k c_t (van den Oord 2018, eq. 3).

    Shape:
        c (batch, anchor, hidden) → (step, batch, anchor, dim).
    """

    def __init__(self, steps: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(steps, dim, hidden))
        bound = 1 / math.sqrt(hidden)  # as nn.Linear
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, c: Float[Tensor, "batch anchor hidden"]) -> Float[Tensor, "step batch anchor dim"]:
        stacked = rearrange(self.weight, "k d h -> (k d) h")
        return rearrange(F.linear(c, stacked), "b a (k d) -> k b a d", k=len(self.weight))
