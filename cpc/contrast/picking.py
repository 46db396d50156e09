"""Picking scores: from those of all pairs to those of each anchor's positive and negatives."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpc.device import full


def pick(
    scores: Float[Tensor, "group anchor key"], index: Int[Tensor, "group anchor pick"]
) -> Float[Tensor, "group anchor pick"]:
    """scores[g, a, index[g, a, p]], in float32 at least."""
    picked: Tensor = _Pick.apply(scores, index)  # type: ignore[no-untyped-call]
    return picked


class _Pick(torch.autograd.Function):
    """`gather`, which keeps the indices alone for the backward pass, where torch's keeps the matrix of scores.

    A score that was picked twice gets both gradients, added up in float32 row by row: a third of the time that
    adding to the flattened scores takes in half precision.
    """

    @staticmethod
    def forward(ctx: Any, scores: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape, ctx.dtype = scores.shape, scores.dtype
        return full(scores.gather(-1, index.long()))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        summed = gradient.new_zeros(ctx.shape).scatter_add_(-1, index.long(), gradient)
        return summed.to(ctx.dtype), None
