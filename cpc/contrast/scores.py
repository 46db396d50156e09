"""How alike an anchor and a key are: every pair is scored by one matrix product."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from cpc.config import STRICT
from cpc.device import full


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


@dataclass(frozen=True, config=STRICT)
class NegativeDistance:
    """−‖a − b‖, so that here too a higher score is more alike: what `Triplet` and `PairMargin` expect.

    With `unit`, both are first brought to length 1, as FaceNet does (Schroff et al. 2015, section 3), and distances
    lie between 0 and 2. `squared` gives −‖a − b‖² (FaceNet's own measure). Always in float32: differences of nearly
    equal numbers need it.
    """

    squared: bool = False
    unit: bool = True
    kind: Literal["distance"] = "distance"

    def __call__(
        self, anchors: Float[Tensor, "group anchor dim"], keys: Float[Tensor, "group key dim"]
    ) -> Float[Tensor, "group anchor key"]:
        with torch.autocast(anchors.device.type, enabled=False):
            a, b = full(anchors), full(keys)
            if self.unit:
                a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
            if not self.squared:
                return -torch.cdist(a, b)
            lengths = a.square().sum(-1)[:, :, None] + b.square().sum(-1)[:, None]
            return -(lengths - 2 * a @ b.transpose(1, 2)).clamp_min(0)


Score = Annotated[Dot | Cosine | NegativeDistance, Field(discriminator="kind")]
