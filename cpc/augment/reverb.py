"""Reverberation: convolution with the impulse response of a room, measured or drawn."""

import math
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy.fft import next_fast_len
from torch import Tensor

from cpc.augment.parameters import (
    PositiveRange,
    Range,
    Share,
    Source,
    in_float32,
    integer,
    normal,
    ratio,
    rms,
    sometimes,
    uniform,
)
from cpc.augment.recordings import responses
from cpc.config import STRICT


@in_float32
def reverberate(
    waveform: Float[Tensor, "batch sample"], response: Float[Tensor, "batch tap"]
) -> Float[Tensor, "batch sample"]:
    """Causal convolution with each example's response, as long and (root mean square) as loud as the waveform."""
    samples = waveform.shape[1]
    response = response[:, :samples]
    size = next_fast_len(samples + response.shape[1] - 1, real=True)
    spectrum = torch.fft.rfft(waveform, n=size) * torch.fft.rfft(response, n=size)
    wet: Tensor = torch.fft.irfft(spectrum, n=size)[:, :samples]
    return wet * ratio(rms(waveform), rms(wet))


def response(
    tail: Float[Tensor, "batch tap"], rt60: Float[Tensor, "batch"], drr: Float[Tensor, "batch"], sample_rate: int
) -> Float[Tensor, "batch tap"]:
    """Direct sound 1, then the noise `tail` falling by 60 decibels in `rt60` seconds, `drr` decibels below in energy.

    The model of a diffuse field: Gaussian noise under an exponential (Polack 1988; Habets 2007, section 2.2).
    """
    seconds = torch.arange(tail.shape[1], device=tail.device) / sample_rate
    late = tail * 10.0 ** (-3 * seconds / rt60[:, None])
    late[:, 0] = 0.0
    late = late * (10.0 ** (-drr / 20))[:, None] / late.square().sum(-1, keepdim=True).sqrt()
    late[:, 0] = 1.0
    return late


@dataclass(frozen=True, config=STRICT)
class SyntheticReverb:
    """A room of its own for each example: seconds until −60 decibels, and decibels from direct to late sound.

    rt60: seconds until the reverberation is 60 dB down, from and to.
    drr: direct to reverberant sound, decibels, from and to.
    share: fraction of the windows that are changed.
    """

    rt60: PositiveRange = (0.2, 0.8)
    drr: Range = (0.0, 12.0)
    share: Share = 1.0
    kind: Literal["synthetic_reverb"] = "synthetic_reverb"

    def __call__(
        self, waveform: Float[Tensor, "batch sample"], source: Source, sample_rate: int = 16000
    ) -> Float[Tensor, "batch sample"]:
        rt60, drr = (uniform(span, waveform, source) for span in (self.rt60, self.drr))
        taps = max(2, min(waveform.shape[1], math.ceil(self.rt60[1] * sample_rate)))
        tail = normal((taps,), waveform, source)
        changed = reverberate(waveform, response(tail, rt60, drr, sample_rate))
        return sometimes(self.share, waveform, changed, source)


@dataclass(frozen=True, config=STRICT)
class MeasuredReverb:
    """An impulse response from `folder` for each example, its first `seconds` from the direct sound on.

    folder: of room impulse responses.
    seconds: of a response that are used, at most.
    share: fraction of the windows that are changed.
    """

    folder: str
    seconds: Annotated[float, Field(gt=0)] = 1.0
    share: Share = 1.0
    kind: Literal["measured_reverb"] = "measured_reverb"

    def __call__(
        self, waveform: Float[Tensor, "batch sample"], source: Source, sample_rate: int = 16000
    ) -> Float[Tensor, "batch sample"]:
        stock = responses(self.folder, sample_rate, self.seconds, str(waveform.device))
        changed = reverberate(waveform, stock[integer(len(stock), waveform, source)])
        return sometimes(self.share, waveform, changed, source)
