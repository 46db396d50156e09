"""Picking scores: from those of all pairs to those of each anchor's positive and negatives."""

import math
from typing import Annotated, Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from cpc.config import STRICT
from cpc.device import upcast


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
        return upcast(scores.gather(-1, index.long()))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        summed = gradient.new_zeros(ctx.shape).scatter_add_(-1, index.long(), gradient)
        return summed.to(ctx.dtype), None


# --- Which keys an anchor is contrasted with, chosen from scores that already exist.


class Grid(NamedTuple):
    """Where keys come from: key s · frames + t is frame t of sequence s."""

    sequences: int
    frames: int


class Candidates(NamedTuple):
    """The scores an objective compares; a negative counts where `mask` is true (everywhere if None)."""

    positive: Float[Tensor, "group anchor"]
    negatives: Float[Tensor, "group anchor negative"]
    mask: Bool[Tensor, "*#group anchor negative"] | None = None


@dataclass(frozen=True, config=STRICT)
class Uniform:
    """`num_negatives` keys drawn with replacement.

    The share `cross_sequence_fraction` of them comes from other sequences, the rest from the positive's own.

    num_negatives: M, negatives an anchor.
    cross_sequence_fraction: fraction of them from other windows of the group.
    """

    num_negatives: Annotated[int, Field(ge=1)] = 128
    cross_sequence_fraction: Annotated[float, Field(ge=0, le=1)] = 0.5
    kind: Literal["uniform"] = "uniform"

    def size(self, grid: Grid) -> int:
        """Negatives an anchor."""
        return self.num_negatives

    def __call__(
        self,
        scores: Float[Tensor, "group anchor key"],
        positive: Int[Tensor, "anchor"],
        grid: Grid,
        generator: torch.Generator | None = None,
    ) -> Candidates:
        drawn = self.draw(positive, grid, len(scores), generator)
        own = positive.expand(len(scores), -1)[..., None].to(drawn.dtype)
        picked = pick(scores, torch.cat([own, drawn], dim=-1))
        return Candidates(picked[..., 0], picked[..., 1:])

    def draw(
        self, positive: Int[Tensor, "anchor"], grid: Grid, groups: int, generator: torch.Generator | None
    ) -> Int[Tensor, "group anchor negative"]:
        """Flat key indices.

        Raises:
            ValueError: the grid has nothing to draw from.
        """
        across = round(self.num_negatives * self.cross_sequence_fraction)
        if across and grid.sequences < 2:
            raise ValueError(
                f"cross_sequence_fraction={self.cross_sequence_fraction}: needs at least 2 sequences to draw from, "
                f"got {grid.sequences}; "
                "use a larger batch or group, or cross_sequence_fraction=0"
            )
        if across < self.num_negatives and grid.frames < 2:
            raise ValueError(
                f"cross_sequence_fraction={self.cross_sequence_fraction}: one frame a sequence leaves none within it; "
                "use cross_sequence_fraction=1"
            )
        # In 32 bits, and without a division a number: drawing costs about as much as picking does.
        flat = positive.int()[:, None]
        sequence, time = flat // grid.frames, flat % grid.frames

        def below(low: int, high: int, count: int) -> Tensor:
            shape = (groups, len(positive), count)
            return torch.randint(low, high, shape, generator=generator, device=positive.device, dtype=torch.int32)

        parts = []
        if across < self.num_negatives:
            moved = _wrapped(time + below(1, grid.frames, self.num_negatives - across), grid.frames)
            parts.append(moved.add_(sequence * grid.frames))
        if across:
            other = _wrapped(sequence + below(1, grid.sequences, across), grid.sequences)
            parts.append(other.mul_(grid.frames).add_(below(0, grid.frames, across)))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


@dataclass(frozen=True, config=STRICT)
class All:
    """Every key of the grid but the positive.

    >>> All().size(Grid(sequences=2, frames=128)), All(cross_weight=0.5).weight(Grid(2, 128))
    (255, 191.0)

    cross_weight: how much a key of another window counts, where one of the own window counts 1. Less keeps more of the
        phones and less of the speaker (docs/representation.md). InfoNCE alone weighs.
    """

    cross_weight: Annotated[float, Field(gt=0, le=1)] = 1.0
    kind: Literal["all"] = "all"

    def weight(self, grid: Grid) -> float:
        """The sum of the weights of an anchor's negatives."""
        return grid.frames - 1 + self.cross_weight * (grid.sequences - 1) * grid.frames

    def log_weights(self, positive: Int[Tensor, "anchor"], grid: Grid) -> Float[Tensor, "anchor key"] | None:
        """What is added to the scores of the negatives before they are summed up; None where all weigh the same."""
        if self.cross_weight == 1.0 or grid.sequences == 1:
            return None
        sequences = torch.arange(grid.sequences * grid.frames, device=positive.device) // grid.frames
        other = sequences != (positive // grid.frames)[:, None]
        return other * math.log(self.cross_weight)

    def size(self, grid: Grid) -> int:
        """Negatives an anchor."""
        return grid.sequences * grid.frames - 1

    def __call__(
        self,
        scores: Float[Tensor, "group anchor key"],
        positive: Int[Tensor, "anchor"],
        grid: Grid,
        generator: torch.Generator | None = None,
    ) -> Candidates:
        keys = torch.arange(scores.shape[-1], device=scores.device)
        own = positive.expand(len(scores), -1)[..., None]
        return Candidates(pick(scores, own)[..., 0], upcast(scores), keys != positive[:, None])


@dataclass(frozen=True, config=STRICT)
class Within:
    """Every other key of the positive's own sequence (PatchInfoNCE's choice, Park et al. 2020, section 3.2)."""

    kind: Literal["within"] = "within"

    def size(self, grid: Grid) -> int:
        """Negatives an anchor."""
        return grid.frames - 1

    def __call__(
        self,
        scores: Float[Tensor, "group anchor key"],
        positive: Int[Tensor, "anchor"],
        grid: Grid,
        generator: torch.Generator | None = None,
    ) -> Candidates:
        start = positive // grid.frames * grid.frames
        moves = torch.arange(1, grid.frames, device=scores.device)
        others = start[:, None] + (positive[:, None] - start[:, None] + moves) % grid.frames
        index = torch.cat([positive[:, None], others], dim=1).expand(len(scores), -1, -1)
        picked = pick(scores, index)
        return Candidates(picked[..., 0], picked[..., 1:])


@dataclass(frozen=True, config=STRICT)
class Hardest:
    """The `num_negatives` keys that score highest, the positive left out: of the grid, or of its own sequence.

    num_negatives: M, the keys that score highest.
    within: from the own window only.
    """

    num_negatives: Annotated[int, Field(ge=1)] = 16
    within: bool = False
    kind: Literal["hardest"] = "hardest"

    def size(self, grid: Grid) -> int:
        """Negatives an anchor."""
        return min(self.num_negatives, grid.frames - 1 if self.within else grid.sequences * grid.frames - 1)

    def __call__(
        self,
        scores: Float[Tensor, "group anchor key"],
        positive: Int[Tensor, "anchor"],
        grid: Grid,
        generator: torch.Generator | None = None,
    ) -> Candidates:
        source = Within() if self.within else All()
        found = source(scores, positive, grid)
        pool = found.negatives if found.mask is None else found.negatives.masked_fill(~found.mask, -torch.inf)
        return Candidates(found.positive, pool.topk(self.size(grid)).values)


@dataclass(frozen=True, config=STRICT)
class SemiHard:
    """Keys that score below the positive, but within `margin` of it (Schroff et al. 2015, section 3.2, eq. 4).

    Harder ones make a model collapse early in training, says the paper; easier ones teach nothing. An anchor without
    any has no negatives.

    margin: how far below the positive a negative may score.
    """

    margin: Annotated[float, Field(gt=0)] = 0.2
    kind: Literal["semi_hard"] = "semi_hard"

    def size(self, grid: Grid) -> int:
        """The most negatives that an anchor can have."""
        return grid.sequences * grid.frames - 1

    def __call__(
        self,
        scores: Float[Tensor, "group anchor key"],
        positive: Int[Tensor, "anchor"],
        grid: Grid,
        generator: torch.Generator | None = None,
    ) -> Candidates:
        found = All()(scores, positive, grid)
        behind = found.positive[..., None] - found.negatives.detach()
        mask = (behind > 0) & (behind < self.margin)
        return Candidates(found.positive, found.negatives, mask if found.mask is None else mask & found.mask)


def _wrapped(places: Int[Tensor, "*shape"], size: int) -> Int[Tensor, "*shape"]:
    """places modulo size, for places below 2 size."""
    return places.sub_((places >= size).int().mul_(size))


Negatives = Annotated[Uniform | All | Within | Hardest | SemiHard, Field(discriminator="kind")]
