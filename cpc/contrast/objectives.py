"""From the scores of a positive and its negatives to one loss an anchor."""

from typing import Annotated, Literal

import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from cpc.config import STRICT


@dataclass(frozen=True, config=STRICT)
class InfoNCE:
    """Cross-entropy of picking the positive among itself and its negatives (van den Oord 2018, eq. 4).

    −log( e^p / (e^p + Σ e^n) ) = softplus( logsumexp(n) − p ). With scores that carry no information it is
    ln(1 + M) for M negatives.
    """

    temperature: Annotated[float, Field(gt=0)] = 1.0
    kind: Literal["info_nce"] = "info_nce"

    def __call__(
        self,
        positive: Float[Tensor, "*anchor"],
        negatives: Float[Tensor, "*anchor negative"],
        mask: Bool[Tensor, "*#anchor negative"] | None = None,
    ) -> Float[Tensor, "*anchor"]:
        if mask is not None:
            negatives = negatives.masked_fill(~mask, float("-inf"))
        against = (negatives / self.temperature).logsumexp(-1)
        return F.softplus(against - positive / self.temperature)


Objective = InfoNCE
