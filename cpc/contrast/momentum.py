"""A momentum encoder: a slow copy of a network whose keys change little from step to step (He et al. 2020, MoCo)."""

import copy
from typing import Any

import torch
from torch import nn


class Momentum(nn.Module):
    """θ_copy ← m · θ_copy + (1 − m) · θ after each optimizer step (He et al. 2020, eq. 2).

    The copy starts equal, takes no gradient, and is part of a checkpoint. Buffers are taken over as they are.
    """

    def __init__(self, network: nn.Module, momentum: float = 0.999) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum={momentum}: must lie between 0 (no memory) and 1 (never changes)")
        self.momentum = momentum
        self.network = copy.deepcopy(network).requires_grad_(False)

    @torch.no_grad()
    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.network(*inputs, **named)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Follow `network` by one step."""
        for slow, fast in zip(self.network.parameters(), network.parameters(), strict=True):
            slow.lerp_(fast.detach().to(slow), 1 - self.momentum)
        for kept, new in zip(self.network.buffers(), network.buffers(), strict=True):
            kept.copy_(new)
