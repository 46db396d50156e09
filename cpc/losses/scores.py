"""How alike an anchor and a key are: every pair is scored by one matrix product."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from cpc.config import STRICT
from cpc.device import upcast


@dataclass(frozen=True, config=STRICT)
class Dot:
    """scale · ⟨a, b⟩. After a head W_k it is CPC's bilinear score z' W_k c (van den Oord 2018, eq. 3).

    >>> Dot(0.5)(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, 4.0], [0.0, 2.0]]])).tolist()
    [[[5.5, 2.0]]]

    scale: factor of the dot product.
    """

    scale: Annotated[float, Field(gt=0)] = 1.0
    kind: Literal["dot"] = "dot"

    def __call__(
        self, anchors: Float[Tensor, "group anchor dim"], keys: Float[Tensor, "group key dim"]
    ) -> Float[Tensor, "group anchor key"]:
        scaled = anchors if self.scale == 1.0 else anchors * self.scale
        return scaled @ keys.transpose(1, 2)


@dataclass(frozen=True, config=STRICT)
class Cosine:
    """cos(a, b − m) / temperature; with m = 0 the score of SimCLR (Chen et al. 2020, eq. 1).

    After a ReLU all frames have a large positive part in common, and cosines see little else: at high learning rates
    training collapses onto it (docs/representation.md). `centre` takes a mean m from the keys of a CPC loss before
    they are normalised: "window", that of the keys of the same sequence; "group", that of all keys that are scored
    together. Adding a constant to all keys then changes nothing. The score itself expects keys that are centred.

    temperature: τ, by which the cosine is divided.
    centre: mean that is taken from the keys first: none, of their window, or of all keys scored together (group).
    """

    temperature: Annotated[float, Field(gt=0)] = 0.1
    centre: Literal["none", "window", "group"] = "none"
    kind: Literal["cosine"] = "cosine"

    def __call__(
        self, anchors: Float[Tensor, "group anchor dim"], keys: Float[Tensor, "group key dim"]
    ) -> Float[Tensor, "group anchor key"]:
        return self.of_unit_keys(anchors, F.normalize(keys, dim=-1))

    def of_unit_keys(
        self, anchors: Float[Tensor, "group anchor dim"], keys: Float[Tensor, "group key dim"]
    ) -> Float[Tensor, "group anchor key"]:
        """The same for keys of length 1."""
        return F.normalize(anchors, dim=-1) / self.temperature @ keys.transpose(1, 2)

    def centred(self, keys: Float[Tensor, "group sequence frame dim"]) -> Float[Tensor, "group sequence frame dim"]:
        """Keys less their mean, taken as `centre` says."""
        match self.centre:
            case "none":
                return keys
            case "window":
                return keys - keys.mean(2, keepdim=True)
            case "group":
                return keys - keys.mean((1, 2), keepdim=True)


@dataclass(frozen=True, config=STRICT)
class NegativeDistance:
    """−‖a − b‖, so that here too a higher score is more alike: what `Triplet` and `PairMargin` expect.

    With `unit`, both are first brought to length 1, as FaceNet does (Schroff et al. 2015, section 3), and distances
    lie between 0 and 2. `squared` gives −‖a − b‖² (FaceNet's own measure). Always in float32: differences of nearly
    equal numbers need it.

    squared: the square of the distance.
    unit: both vectors are brought to length 1 first.
    """

    squared: bool = False
    unit: bool = True
    kind: Literal["distance"] = "distance"

    def __call__(
        self, anchors: Float[Tensor, "group anchor dim"], keys: Float[Tensor, "group key dim"]
    ) -> Float[Tensor, "group anchor key"]:
        with torch.autocast(anchors.device.type, enabled=False):
            a, b = upcast(anchors), upcast(keys)
            if self.unit:
                a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
            if not self.squared:
                return -torch.cdist(a, b)
            lengths = a.square().sum(-1)[:, :, None] + b.square().sum(-1)[:, None]
            return -(lengths - 2 * a @ b.transpose(1, 2)).clamp_min(0)


def check_uncentred(score: "Dot | Cosine | NegativeDistance") -> None:
    """Raises ValueError for a centred score where keys are no frames of sequences."""
    if isinstance(score, Cosine) and score.centre != "none":
        raise ValueError(f"score.centre={score.centre}: is for the frames of loss.kind=cpc; give none")


Score = Annotated[Dot | Cosine | NegativeDistance, Field(discriminator="kind")]
