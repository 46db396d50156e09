"""Loudness and polarity."""

from typing import Literal

from jaxtyping import Float
from pydantic.dataclasses import dataclass
from torch import Tensor

from cpc.augment.parameters import Range, Share, Source, in_float32, sometimes, uniform
from cpc.config import STRICT


@in_float32
def amplify(waveform: Float[Tensor, "batch sample"], db: Float[Tensor, "batch"]) -> Float[Tensor, "batch sample"]:
    """Each example `db` decibels louder: times 10^(db / 20). Nothing is clipped."""
    return waveform * (10.0 ** (db / 20))[:, None]


@dataclass(frozen=True, config=STRICT)
class Gain:
    """A gain in decibels, drawn uniformly.

    db: from and to, decibels.
    share: fraction of the windows that are changed.
    """

    db: Range = (-6.0, 6.0)
    share: Share = 1.0
    kind: Literal["gain"] = "gain"

    def __call__(
        self, waveform: Float[Tensor, "batch sample"], source: Source, sample_rate: int = 16000
    ) -> Float[Tensor, "batch sample"]:
        changed = amplify(waveform, uniform(self.db, waveform, source))
        return sometimes(self.share, waveform, changed, source)


@dataclass(frozen=True, config=STRICT)
class PolarityInversion:
    """The sign turned round in a share of the examples: nobody hears it, and no feature should.

    share: fraction of the windows that are changed.
    """

    share: Share = 0.5
    kind: Literal["polarity_inversion"] = "polarity_inversion"

    def __call__(
        self, waveform: Float[Tensor, "batch sample"], source: Source, sample_rate: int = 16000
    ) -> Float[Tensor, "batch sample"]:
        return sometimes(self.share, waveform, -waveform, source)
