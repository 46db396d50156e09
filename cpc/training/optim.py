"""The optimiser and its learning rate by step."""

import math
from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from cpc.config import STRICT


@dataclass(frozen=True, config=STRICT)
class OptimConfig:
    """The optimiser and its learning rate: a linear rise to `lr`, then constant, or a cosine.

    kind: adam; adamw, whose weight decay is decoupled; or muon, which makes the updates of matrices orthogonal
        (Jordan 2024) and leaves biases and norms to adamw.
    lr: the highest learning rate; muon scales its updates so that rates of adam serve it.
    warmup_steps: steps of the rise.
    betas: Adam's decay of its two means.
    eps: Adam's ε.
    weight_decay: shrinks the weights; decoupled with adamw.
    schedule: after the warm-up: constant, or a cosine down to min_lr_ratio.
    min_lr_ratio: where the cosine ends, as a fraction of lr.
    max_grad_norm: the gradient is scaled down to this norm where it is larger; null for never.
    """

    kind: Literal["adam", "adamw", "muon"] = "adam"
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


def optimizer(config: OptimConfig, *modules: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of all parameters of `modules` that are trained; Adam is fused into one kernel.

    Args:
        config: its kind, rate and decay.
        modules: the networks; parameters without a gradient, such as a slow copy's, are left alone.

    Returns:
        one optimiser, whose state is kept by parameter.
    """
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    if config.kind == "muon":
        convolutions = {m.weight for module in modules for m in module.modules() if isinstance(m, nn.Conv1d)}
        return Muon(config, parameters, convolutions)
    return _adam(config, parameters)


def _adam(config: OptimConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    kind = torch.optim.Adam if config.kind == "adam" else torch.optim.AdamW
    return kind(
        [{"params": parameters}],  # which may be none
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon for whatever is a matrix, AdamW for the rest, behind one optimiser (Jordan 2024).

    Muon takes two dimensions alone. A convolution's weight (out, in, kernel) is a matrix (out, in · kernel); any other
    weight of three dimensions is a stack of matrices, such as the heads W_k (step, dim, hidden). The gates of a GRU or
    LSTM, which torch keeps in one weight, are one matrix. Updates are scaled to
    the size that Adam's have (Liu et al. 2025, "Muon is scalable for LLM training", section 2.2).

    Args:
        config: rates and decay; `betas` and `eps` are AdamW's.
        parameters: all that are trained.
        convolutions: those of them that are weights of convolutions.
    """

    def __init__(self, config: OptimConfig, parameters: list[nn.Parameter], convolutions: set[Tensor]) -> None:
        super().__init__(parameters, {"lr": config.lr})
        self.matrices = [(p, _split(p, p in convolutions)) for p in parameters if p.ndim in (2, 3)]
        self.views = [[nn.Parameter(view) for view in split(p.detach())] for p, split in self.matrices]
        self.muon = torch.optim.Muon(
            [{"params": [view for views in self.views for view in views]}],
            lr=config.lr,
            weight_decay=config.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        self.adam = _adam(config, [p for p in parameters if p.ndim not in (2, 3)])
        self.adam.state = self.state  # both states are this one's, by parameter: that is what a checkpoint keeps

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of all parameters from their gradients."""
        for group in self.muon.param_groups + self.adam.param_groups:
            group["lr"] = self.param_groups[0]["lr"]
        for (parameter, split), views in zip(self.matrices, self.views, strict=True):
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            for view, data, buffer in zip(views, split(parameter), split(state["momentum_buffer"]), strict=True):
                view.data, view.grad = data, None
                self.muon.state[view] = {"momentum_buffer": buffer}
            if parameter.grad is not None:
                for view, gradient in zip(views, split(parameter.grad), strict=True):
                    view.grad = gradient
        self.muon.step()  # type: ignore[no-untyped-call]
        self.adam.step()


def _split(parameter: Tensor, convolution: bool) -> Callable[[Tensor], list[Tensor]]:
    """What turns a parameter, its gradient or its momentum into matrices that share its memory."""
    if parameter.ndim == 2:
        return lambda tensor: [tensor]
    if convolution:
        return lambda tensor: [tensor.flatten(1)]
    return lambda tensor: list(tensor.unbind())
