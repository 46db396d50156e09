"""A queue of past keys: more negatives than a batch holds, at the price of their age (He et al. 2020, MoCo)."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Held(NamedTuple):
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

    def forward(self) -> Held:
        held = min(self._seen, len(self.keys))
        return Held(self.keys[:held], self.labels[:held])

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
