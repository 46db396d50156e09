"""How alike an anchor and a key are: every pair is scored by one matrix product."""

from typing import Annotated, Literal

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from cpc.config import STRICT


@dataclass(frozen=True, config=STRICT)
class Dot:
    """scale · ⟨a, b⟩. After a head W_k it is CPC's bilinear score z' W_k c (van den Oord 2018, eq. 3)."""

    scale: Annotated[float, Field(gt=0)] = 1.0
    kind: Literal["dot"] = "dot"

    def __call__(
        self, anchors: Float[Tensor, "group anchor dim"], keys: Float[Tensor, "group key dim"]
    ) -> Float[Tensor, "group anchor key"]:
        scaled = anchors if self.scale == 1.0 else anchors * self.scale
        return scaled @ keys.transpose(1, 2)


@dataclass(frozen=True, config=STRICT)
class Cosine:
    """cos(a, b) / temperature (Chen et al. 2020, SimCLR, eq. 1)."""

    temperature: Annotated[float, Field(gt=0)] = 0.1
    kind: Literal["cosine"] = "cosine"

    def __call__(
        self, anchors: Float[Tensor, "group anchor dim"], keys: Float[Tensor, "group key dim"]
    ) -> Float[Tensor, "group anchor key"]:
        unit = F.normalize(anchors, dim=-1) / self.temperature
        return unit @ F.normalize(keys, dim=-1).transpose(1, 2)


Score = Annotated[Dot | Cosine, Field(discriminator="kind")]
