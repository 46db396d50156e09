"""Running means of what a step reports, kept on the device and read back only when they are shown."""

import math
import time

import torch
from jaxtyping import Float
from torch import Tensor

from cpc.distributed import World
from cpc.losses.cpc import Losses
from cpc.losses.objectives import KINDS


class NotFinite(RuntimeError):
    """The loss is NaN or infinite: training cannot go on."""


class Meter:
    """Sums since the last `read`. What is asked of it is about all processes, which must ask at the same step."""

    def __init__(self, seconds_a_step: float, world: World) -> None:
        self._audio, self._world = seconds_a_step, world
        self._reset()

    def _reset(self) -> None:
        self._sum: Float[Tensor, value] | None = None
        self._count, self._since = 0, time.perf_counter()
        self._ceiling, self._bounded, self._kinds = 0.0, False, 0

    def add(self, losses: Losses, norm: Float[Tensor, ""] | None = None) -> None:
        """Add one step's losses; nothing is synchronised."""
        extra = losses.loss.new_zeros(()) if norm is None else norm.detach().to(losses.loss.dtype)
        kinds = losses.kinds if losses.kinds is not None else losses.accuracy.new_zeros(0)
        two = torch.stack([losses.loss.detach(), extra])
        values = torch.cat([two, kinds.to(two), losses.per_step.detach(), losses.accuracy])
        self._kinds = len(kinds)
        self._sum = values if self._sum is None else self._sum + values
        self._count += 1
        self._ceiling, self._bounded = losses.ceiling, losses.bounded

    @property
    def finite(self) -> bool:
        return self._sum is None or bool(torch.isfinite(self._world.mean(self._sum)).all())

    def read(self, prefix: str) -> dict[str, float]:
        """The means since the last reading, named for MLflow's charts, and start again."""
        if self._sum is None:
            return {}
        loss, norm, *rest = self._world.mean(self._sum / self._count).tolist()
        kinds, rest = rest[: self._kinds], rest[self._kinds :]
        steps = len(rest) // 2
        values = {f"{prefix}/loss": loss}
        values |= {f"{prefix}/triplets/{kind}": share for kind, share in zip(KINDS, kinds, strict=False)}
        if not math.isnan(self._ceiling):  # the loss at chance is known
            values[f"{prefix}/ceiling"] = self._ceiling
        if self._bounded:
            values[f"{prefix}/bound"] = self._ceiling - loss
        for k in range(steps if steps > 1 else 0):
            values[f"{prefix}/loss_k/{k + 1:02d}"] = rest[k]
            values[f"{prefix}/accuracy_k/{k + 1:02d}"] = rest[steps + k]
        values[f"{prefix}/accuracy"] = sum(rest[steps:]) / steps
        if prefix == "train":
            values["optim/gradient_norm"] = norm
            values["speed/real_time_factor"] = self._audio * self._count / (time.perf_counter() - self._since)
        self._reset()
        return values
