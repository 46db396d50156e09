"""The projection head between an embedding and its loss: used in training, thrown away after (SimCLR, section 4.2)."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import nn

from cpc.config import STRICT


@dataclass(frozen=True, config=STRICT)
class ProjectionConfig:
    """`layers` linear layers with ReLU between them, `width` units inside, to `dim` numbers.

    `norm` "batch" normalises what each layer gives over the batch, as SimCLR's head does: embeddings, which before
    training all point almost the same way, are told apart from the first step on.

    Two in SimCLR (Chen et al. 2020) and MoCo v2, three in SimCLR v2 (Chen et al. 2020b, section 3.2); one is a linear
    map, none the embedding itself.
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
