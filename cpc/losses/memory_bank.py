"""A queue of past keys: more negatives than a batch holds, at the price of their age (He et al. 2020, MoCo)."""

import copy
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class QueuedKeys(NamedTuple):
    """The keys that a queue holds, in no order that matters, and the label of each (−1 where none was given)."""

    keys: Float[Tensor, "held dim"]
    labels: Int[Tensor, "held"]


class Queue(nn.Module):
    """The newest `size` keys of dimension `dim`; a key takes the place of the oldest one.

    Its buffers are part of a checkpoint, so that a resumed run holds the same keys. `forward` gives what is there; a
    queue that is not yet full gives only what was put in.
    """

    keys: Tensor
    labels: Tensor
    count: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size={size}: a queue holds at least 1 key")
        self.register_buffer("keys", torch.zeros(size, dim))
        self.register_buffer("labels", torch.full((size,), -1, dtype=torch.long))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))  # keys ever put in
        self._seen = 0  # the same number where Python can read it without waiting for a GPU
        self.register_load_state_dict_post_hook(lambda queue, _: queue._see())  # type: ignore[no-untyped-call]

    def _see(self) -> None:
        self._seen = int(self.count)

    def forward(self) -> QueuedKeys:
        held = min(self._seen, len(self.keys))
        return QueuedKeys(self.keys[:held], self.labels[:held])

    @torch.no_grad()
    def enqueue(self, keys: Float[Tensor, "key dim"], labels: Int[Tensor, "key"] | None = None) -> None:
        """Put keys in, the last of them newest; of more than fit, the newest stay. No gradient flows into them."""
        size, new = len(self.keys), len(keys)
        kept = min(new, size)
        first = self._seen + new - kept
        places = torch.arange(first, first + kept, device=self.keys.device) % size
        self.keys[places] = keys[new - kept :].detach().to(self.keys)
        own = torch.full((kept,), -1, device=self.keys.device) if labels is None else labels[new - kept :]
        self.labels[places] = own.to(self.labels)
        self.count += new
        self._seen += new


# --- A momentum encoder: a slow copy of a network whose keys change little from step to step (He et al. 2020, MoCo).


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
