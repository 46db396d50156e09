"""Which keys an anchor is contrasted with, chosen from scores that already exist.

Keys come from a grid of sequences × frames, flattened sequence by sequence. An anchor's positive is the flat index
of one key. Negatives exclude it in closed form, without rejection: within the positive's sequence its time moves by
1 … frames − 1 (modulo frames); across, its sequence moves by 1 … sequences − 1 and the time is free.
"""

from typing import Annotated, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from cpc.config import STRICT
from cpc.contrast.picking import pick
from cpc.device import full


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
    """`count` keys drawn with replacement: a share `across` from other sequences, the rest from the positive's own."""

    count: Annotated[int, Field(ge=1)] = 128
    across: Annotated[float, Field(ge=0, le=1)] = 0.5
    kind: Literal["uniform"] = "uniform"

    def size(self, grid: Grid) -> int:
        """Negatives an anchor."""
        return self.count

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
        across = round(self.count * self.across)
        if across and grid.sequences < 2:
            raise ValueError(
                f"across={self.across}: needs at least 2 sequences to draw from, got {grid.sequences}; "
                "use a larger batch or group, or across=0"
            )
        if across < self.count and grid.frames < 2:
            raise ValueError(f"across={self.across}: one frame a sequence leaves none within it; use across=1")
        # In 32 bits, and without a division a number: drawing costs about as much as picking does.
        flat = positive.int()[:, None]
        sequence, time = flat // grid.frames, flat % grid.frames

        def below(low: int, high: int, count: int) -> Tensor:
            shape = (groups, len(positive), count)
            return torch.randint(low, high, shape, generator=generator, device=positive.device, dtype=torch.int32)

        parts = []
        if across < self.count:
            moved = _wrapped(time + below(1, grid.frames, self.count - across), grid.frames)
            parts.append(moved.add_(sequence * grid.frames))
        if across:
            other = _wrapped(sequence + below(1, grid.sequences, across), grid.sequences)
            parts.append(other.mul_(grid.frames).add_(below(0, grid.frames, across)))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


@dataclass(frozen=True, config=STRICT)
class All:
    """Every key of the grid but the positive."""

    kind: Literal["all"] = "all"

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
        return Candidates(pick(scores, own)[..., 0], full(scores), keys != positive[:, None])


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
    """The `count` keys of the grid that score highest, the positive left out: of all, or of its own sequence."""

    count: Annotated[int, Field(ge=1)] = 16
    within: bool = False
    kind: Literal["hardest"] = "hardest"

    def size(self, grid: Grid) -> int:
        """Negatives an anchor."""
        return min(self.count, grid.frames - 1 if self.within else grid.sequences * grid.frames - 1)

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
