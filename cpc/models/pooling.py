"""From the frames of an utterance to one vector."""

from itertools import pairwise
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
    """A weighted mean, whose weights a layer of `width` tanh units learns (Okabe et al. 2018, section 2.2).

    width: hidden units of the attention.
    """

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


# --- The projection head between an embedding and its loss: used in training, thrown away after (SimCLR, section 4.2).


@dataclass(frozen=True, config=STRICT)
class ProjectionConfig:
    """`layers` linear layers with ReLU between them, `width` units inside, to `dim` numbers.

    `norm` "batch" normalises what each layer gives over the batch, as SimCLR's head does: embeddings, which before
    training all point almost the same way, are told apart from the first step on.

    Two in SimCLR (Chen et al. 2020) and MoCo v2, three in SimCLR v2 (Chen et al. 2020b, section 3.2); one is a linear
    map, none the embedding itself.

    layers: linear layers; 0 for none.
    width: hidden units.
    dim: dimension of the vectors that are contrasted.
    norm: after each hidden layer.
    """

    layers: Annotated[int, Field(ge=0)] = 2
    width: Annotated[int, Field(ge=1)] = 256
    dim: Annotated[int, Field(ge=1)] = 128
    norm: Literal["none", "batch"] = "none"


def build_projection(config: ProjectionConfig, dim: int) -> nn.Module:
    """The head for embeddings of `dim` numbers."""
    if not config.layers:
        return nn.Identity()
    sizes = [dim, *[config.width] * (config.layers - 1), config.dim]
    normed = config.norm == "batch"
    parts: list[nn.Module] = []
    for a, b in pairwise(sizes):
        parts += [nn.Linear(a, b, bias=not normed), *([nn.BatchNorm1d(b)] if normed else []), nn.ReLU()]
    return nn.Sequential(*parts[:-1])
