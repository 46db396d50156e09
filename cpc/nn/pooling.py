"""From the frames of an utterance to one vector."""

from typing import Annotated, Literal, assert_never

import torch
from einops import einsum
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from cpc.config import STRICT


@dataclass(frozen=True, config=STRICT)
class MeanConfig:
    """The mean over frames."""

    kind: Literal["mean"] = "mean"


@dataclass(frozen=True, config=STRICT)
class AttentiveConfig:
    """A weighted mean, whose weights a layer of `width` tanh units learns (Okabe et al. 2018, section 2.2)."""

    width: Annotated[int, Field(ge=1)] = 128
    kind: Literal["attentive"] = "attentive"


PoolingConfig = Annotated[MeanConfig | AttentiveConfig, Field(discriminator="kind")]


class Pooling(nn.Module):
    """Frames (batch, frame, dim) → vectors (batch, dim); of each utterance its first `counts` frames, or all."""

    def forward(
        self, frames: Float[Tensor, "batch frame dim"], counts: Int[Tensor, "batch"] | None = None
    ) -> Float[Tensor, "batch dim"]:
        scores = self.scores(frames)
        if counts is not None:
            late = torch.arange(frames.shape[1], device=frames.device) >= counts[:, None]
            scores = scores.masked_fill(late, -torch.inf)
        return einsum(scores.softmax(-1).to(frames), frames, "b t, b t d -> b d")

    def scores(self, frames: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch frame"]:
        """What the softmax makes weights of: here all the same."""
        return frames.new_zeros(frames.shape[:2], dtype=torch.float32)


class Attentive(Pooling):
    """Weights softmax(v · tanh(W frame + b))."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(dim, width), nn.Tanh(), nn.Linear(width, 1, bias=False))

    def scores(self, frames: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch frame"]:
        """The layer's."""
        scores: Tensor = self.network(frames)[..., 0].float()
        return scores


def build_pooling(config: MeanConfig | AttentiveConfig, dim: int) -> Pooling:
    """The module that a config describes."""
    match config:
        case MeanConfig():
            return Pooling()
        case AttentiveConfig(width):
            return Attentive(dim, width)
        case _:
            assert_never(config)
