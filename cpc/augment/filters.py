"""Filters: a band removed, or everything above a cut-off, as narrow channels and codecs do.

The filters are multiplications in the Fourier domain, without delay: they ring for some 1 / edge seconds (20 ms) to
either side. That is less than the receptive field of one frame, but it is not strictly causal.
"""

import math
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from scipy.fft import next_fast_len
from torch import Tensor

from cpc.augment.parameters import PositiveRange, Share, Source, in_float32, sometimes, uniform
from cpc.config import STRICT

EDGE = 50.0  # Hz from nothing to everything, beside a band
ROLL_OFF = 200.0  # Hz from everything to nothing, above a cut-off
TAIL = 2048  # samples of silence that keep the end from ringing into the beginning


@in_float32
def reject(
    waveform: Float[Tensor, "batch sample"],
    low: Float[Tensor, "batch"],
    high: Float[Tensor, "batch"],
    sample_rate: int = 16000,
) -> Float[Tensor, "batch sample"]:
    """Nothing between `low` and `high` Hz, all of the rest, and half a cosine of 50 Hz between them on either side."""
    size = next_fast_len(waveform.shape[1] + TAIL, real=True)
    frequency = _frequencies(size, sample_rate, waveform)
    outside = torch.maximum(low[:, None] - frequency, frequency - high[:, None]).clamp(0, EDGE)
    return _filtered(waveform, torch.sin(math.pi / 2 * outside / EDGE) ** 2, size)


@in_float32
def low_pass(
    waveform: Float[Tensor, "batch sample"], cutoff: Float[Tensor, "batch"], sample_rate: int = 16000
) -> Float[Tensor, "batch sample"]:
    """All up to `cutoff` Hz, nothing from 200 Hz above it on, half a cosine between."""
    size = next_fast_len(waveform.shape[1] + TAIL, real=True)
    above = (_frequencies(size, sample_rate, waveform) - cutoff[:, None]).clamp(0, ROLL_OFF)
    return _filtered(waveform, torch.cos(math.pi / 2 * above / ROLL_OFF) ** 2, size)


def _frequencies(size: int, sample_rate: int, waveform: Float[Tensor, "batch sample"]) -> Float[Tensor, "bin"]:
    frequencies: Tensor = torch.fft.rfftfreq(size, 1 / sample_rate, device=waveform.device, dtype=waveform.dtype)
    return frequencies


def _filtered(
    waveform: Float[Tensor, "batch sample"], response: Float[Tensor, "batch bin"], size: int
) -> Float[Tensor, "batch sample"]:
    filtered: Tensor = torch.fft.irfft(torch.fft.rfft(waveform, n=size) * response, n=size)
    return filtered[:, : waveform.shape[1]]


@dataclass(frozen=True, config=STRICT)
class BandRejection:
    """A band of the mel scale removed: at most `width` of it wide, anywhere below half the sample rate.

    The default is the 27 of 256 mel bands of SpecAugment, as Kharitonov et al. 2020 (section 3.1) use it.

    width: of the band, as a fraction of all frequencies, at most.
    share: fraction of the windows that are changed.
    """

    width: Annotated[float, Field(gt=0, le=1)] = 27 / 256
    share: Share = 1.0
    kind: Literal["band_rejection"] = "band_rejection"

    def __call__(
        self, waveform: Float[Tensor, "batch sample"], source: Source, sample_rate: int = 16000
    ) -> Float[Tensor, "batch sample"]:
        top = 2595 * math.log10(1 + sample_rate / 2 / 700)
        width = uniform((0.0, self.width * top), waveform, source)
        start = uniform((0.0, 1.0), waveform, source) * (top - width)
        low, high = (700 * (10.0 ** (mel / 2595) - 1) for mel in (start, start + width))
        return sometimes(self.share, waveform, reject(waveform, low, high, sample_rate), source)


@dataclass(frozen=True, config=STRICT)
class LowPass:
    """A cut-off in Hz, drawn uniformly: the bandwidth of a telephone or of a codec at a low bit rate.

    cutoff: Hz, from and to.
    share: fraction of the windows that are changed.
    """

    cutoff: PositiveRange = (3000.0, 7000.0)
    share: Share = 1.0
    kind: Literal["low_pass"] = "low_pass"

    def __call__(
        self, waveform: Float[Tensor, "batch sample"], source: Source, sample_rate: int = 16000
    ) -> Float[Tensor, "batch sample"]:
        cutoff = uniform(self.cutoff, waveform, source)
        return sometimes(self.share, waveform, low_pass(waveform, cutoff, sample_rate), source)
