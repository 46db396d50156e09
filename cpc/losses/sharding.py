"""How a batch is cut into groups that are scored together, and into shares that one process holds."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from cpc.losses.negatives import Grid, Uniform


class BatchShard(NamedTuple):
    """Part number `part`, from 0, `of` so many equal parts of a batch, in the order of the batch.

    A share is whole groups, or a group is whole shares, which consecutive processes hold.
    """

    part: int = 0
    of: int = 1

    def whole(self, count: int) -> int:
        """The size of a batch of which this share has `count`."""
        return self.of * count

    def places(self, count: int) -> slice:
        """Where the `count` of this share stand in the whole batch, for which whatever is random is drawn."""
        return slice(self.part * count, (self.part + 1) * count)


FULL_BATCH = BatchShard()


@dataclass(frozen=True, config=ConfigDict(arbitrary_types_allowed=True))
class PrecomputedNegatives(Uniform):
    """Uniform negatives that are drawn already: flat key indices (group, anchor, negative)."""

    index: Tensor | None = None

    def draw(
        self, positive: Int[Tensor, "anchor"], grid: Grid, groups: int, generator: torch.Generator | None
    ) -> Int[Tensor, "group anchor negative"]:
        if self.index is None:
            raise ValueError("index=None: must be given; use Uniform to draw")
        return self.index


def positives(sequences: int, anchors: int, frames: int, steps: range, device: torch.device) -> Int[Tensor, "pair"]:
    """The flat key index s · frames + t + k for every anchor (s, t) and step k, in row-major order of (s, t, k)."""
    ahead = torch.arange(steps.start, steps.stop, device=device)
    times = torch.arange(anchors, device=device)[:, None] + ahead
    starts = torch.arange(sequences, device=device)[:, None, None] * frames
    return (starts + times).flatten()


def blocks(batch: int, group: int) -> Iterator[tuple[slice, int]]:
    """Cut a batch into the fewest groups of at most `group` sequences whose sizes differ by at most 1.

    Yields at most two (slice of the batch, size of its groups): equal groups are computed together.
    """
    groups = math.ceil(batch / group)
    small, extra = divmod(batch, groups)
    split = extra * (small + 1)
    if split:
        yield slice(0, split), small + 1
    if split < batch:
        yield slice(split, batch), small


def step_chunks(
    predictions: Float[Tensor, "step batch anchor dim"], most: int
) -> Iterator[tuple[range, Float[Tensor, "some batch anchor dim"]]]:
    """At most so many steps k = 1 … K at once. Their gradients are put together in the layout that the heads made."""
    starts = range(1, len(predictions) + 1, most)
    steps = [range(start, min(start + most, len(predictions) + 1)) for start in starts]
    inner = predictions.movedim(0, 2)
    if len(steps) == 1:
        parts: tuple[Tensor, ...] = (predictions,)
    elif inner.is_contiguous():
        parts = tuple(part.movedim(2, 0) for part in torch.split(inner, most, 2))
    else:
        parts = torch.split(predictions, most)
    yield from zip(steps, parts, strict=True)


def cut(x: Float[Tensor, "*rest batch dim_a dim_b"], block: slice) -> Float[Tensor, "*rest part dim_a dim_b"]:
    """x[…, block, :, :], or x where that is all: the gradient of a slice is one more tensor of the size of x."""
    return x if len(range(*block.indices(x.shape[-3]))) == x.shape[-3] else x[..., block, :, :]
