"""The optimiser and its learning rate by step."""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from cpc.config import STRICT


@dataclass(frozen=True, config=STRICT)
class OptimConfig:
    """The optimiser and its learning rate: a linear rise to `lr`, then constant, or a cosine.

    kind: adam, or adamw, whose weight decay is decoupled.
    lr: the highest learning rate.
    warmup_steps: steps of the rise.
    betas: Adam's decay of its two means.
    eps: Adam's ε.
    weight_decay: shrinks the weights; decoupled with adamw.
    schedule: after the warm-up: constant, or a cosine down to min_lr_ratio.
    min_lr_ratio: where the cosine ends, as a fraction of lr.
    max_grad_norm: the gradient is scaled down to this norm where it is larger; null for never.
    """

    kind: Literal["adam", "adamw"] = "adam"
    lr: Annotated[float, Field(gt=0)] = 2e-4
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    schedule: Literal["constant", "cosine"] = "constant"
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] | None = None


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """The learning rate of `step` (from 0) out of `steps`."""
    rise = min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.schedule == "constant" or step < config.warmup_steps:
        return config.lr * rise
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * (1 + math.cos(math.pi * min(1.0, done))) / 2)


def optimizer(config: OptimConfig, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """Adam or AdamW, fused into one kernel where torch has it (CPU and CUDA)."""
    kind = torch.optim.Adam if config.kind == "adam" else torch.optim.AdamW
    return kind(
        parameters,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )
