"""Cuts in time: a shorter piece of each example, or a gap in it."""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from cpc.augment.parameters import Range, Share, Source, sometimes, uniform
from cpc.config import STRICT


def crop(
    waveform: Float[Tensor, "batch sample"], place: Float[Tensor, "batch"], samples: int
) -> Float[Tensor, "batch cropped"]:
    """`samples` samples of each example; `place` 0 takes the first ones, 1 the last.

    Raises:
        ValueError: the waveform is shorter than that.
    """
    spare = waveform.shape[1] - samples
    if spare < 0:
        raise ValueError(f"samples={samples}: longer than the waveform of {waveform.shape[1]}; crop less")
    start = (place * (spare + 1)).long().clamp(max=spare)
    return waveform.gather(1, start[:, None] + torch.arange(samples, device=waveform.device))


def silence(
    waveform: Float[Tensor, "batch sample"], start: Float[Tensor, "batch"], length: Float[Tensor, "batch"]
) -> Float[Tensor, "batch sample"]:
    """Zeros from sample `start` on, `length` of them (rounded down)."""
    first = start.floor()[:, None]
    time = torch.arange(waveform.shape[1], device=waveform.device)
    return waveform.masked_fill((time >= first) & (time < first + length.floor()[:, None]), 0.0)


@dataclass(frozen=True, config=STRICT)
class Crop:
    """`samples` samples from a random place: two crops of an utterance are two views of it (Chen et al. 2020).

    samples: of the crop.
    """

    samples: Annotated[int, Field(ge=1)]
    kind: Literal["crop"] = "crop"

    def __call__(
        self, waveform: Float[Tensor, "batch sample"], source: Source, sample_rate: int = 16000
    ) -> Float[Tensor, "batch cropped"]:
        return crop(waveform, uniform((0.0, 1.0), waveform, source), self.samples)


@dataclass(frozen=True, config=STRICT)
class TimeDropout:
    """A gap of silence of so many seconds at a random place (Kharitonov et al. 2020, section 3.1).

    seconds: that are silenced, from and to.
    share: fraction of the windows that are changed.
    """

    seconds: Range = (0.0, 0.1)
    share: Share = 1.0
    kind: Literal["time_dropout"] = "time_dropout"

    def __call__(
        self, waveform: Float[Tensor, "batch sample"], source: Source, sample_rate: int = 16000
    ) -> Float[Tensor, "batch sample"]:
        length = (uniform(self.seconds, waveform, source) * sample_rate).clamp(0, waveform.shape[1])
        start = uniform((0.0, 1.0), waveform, source) * (waveform.shape[1] - length)
        return sometimes(self.share, waveform, silence(waveform, start, length), source)
