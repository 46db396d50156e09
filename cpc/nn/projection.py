"""The projection head between an embedding and its loss: used in training, thrown away after (SimCLR, section 4.2)."""

from itertools import pairwise
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import nn

from cpc.config import STRICT


@dataclass(frozen=True, config=STRICT)
class ProjectionConfig:
    """`layers` linear layers with ReLU between them, `width` units inside, to `dim` numbers.

    Two in SimCLR (Chen et al. 2020) and MoCo v2, three in SimCLR v2 (Chen et al. 2020b, section 3.2); one is a linear
    map, none the embedding itself.
    """

    layers: Annotated[int, Field(ge=0)] = 2
    width: Annotated[int, Field(ge=1)] = 256
    dim: Annotated[int, Field(ge=1)] = 128


def build_projection(config: ProjectionConfig, dim: int) -> nn.Module:
    """The head for embeddings of `dim` numbers."""
    if not config.layers:
        return nn.Identity()
    sizes = [dim, *[config.width] * (config.layers - 1), config.dim]
    layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    return nn.Sequential(*[part for layer in layers[:-1] for part in (layer, nn.ReLU())], layers[-1])
