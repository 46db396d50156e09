"""Additive noise at an exact signal-to-noise ratio: coloured, or taken from recordings."""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from cpc.augment.parameters import Range, Share, Source, in_float32, normal, ratio, rms, sometimes, uniform
from cpc.augment.recordings import excerpts, recordings
from cpc.config import STRICT


@in_float32
def add_noise(
    waveform: Float[Tensor, "batch sample"], noise: Float[Tensor, "batch sample"], snr: Float[Tensor, "batch"]
) -> Float[Tensor, "batch sample"]:
    """waveform + a · noise, with a such that 20 log10(rms(waveform) / rms(a · noise)) is `snr` decibels.

    A silent waveform gets no noise, and silent noise changes nothing.
    """
    quieter = (10.0 ** (-snr / 20))[:, None]
    return waveform + noise * ratio(rms(waveform), rms(noise)) * quieter


def coloured(
    waveform: Float[Tensor, "batch sample"], exponent: Float[Tensor, "batch"], source: Source
) -> Float[Tensor, "batch sample"]:
    """Gaussian noise in the shape of `waveform`, with power in proportion to 1 / frequency^exponent and without a mean.

    Exponent 0 is white, 1 pink, 2 brown: −10 · exponent decibels a decade (Timmer & König 1995, section 3).
    """
    samples = waveform.shape[1]
    bins = samples // 2 + 1
    spectrum = torch.view_as_complex(normal((bins, 2), waveform, source))
    frequency = torch.arange(bins, device=waveform.device, dtype=torch.float32).clamp_min(1.0)
    amplitude = frequency ** (-exponent[:, None] / 2)
    amplitude[:, 0] = 0.0
    noise: Tensor = torch.fft.irfft(spectrum * amplitude, n=samples)
    return noise


@dataclass(frozen=True, config=STRICT)
class ColouredNoise:
    """Noise with a spectrum of 1 / frequency^exponent, `snr` decibels below the signal; both drawn uniformly.

    snr: from and to, decibels.
    exponent: of the spectrum 1/f^exponent, from and to.
    share: fraction of the windows that are changed.
    """

    snr: Range = (5.0, 20.0)
    exponent: Range = (0.0, 2.0)
    share: Share = 1.0
    kind: Literal["coloured_noise"] = "coloured_noise"

    def __call__(
        self, waveform: Float[Tensor, "batch sample"], source: Source, sample_rate: int = 16000
    ) -> Float[Tensor, "batch sample"]:
        snr = uniform(self.snr, waveform, source)
        noise = coloured(waveform, uniform(self.exponent, waveform, source), source)
        return sometimes(self.share, waveform, add_noise(waveform, noise, snr), source)


@dataclass(frozen=True, config=STRICT)
class FolderNoise:
    """Recordings below `folder` as noise, `snr` decibels below the signal.

    They are decoded when first needed and stay on the device as 16-bit integers: at most `hours` of them, from files
    in an order that the folder alone determines (an hour takes 115 MB).

    folder: of recordings of noise.
    snr: from and to, decibels.
    hours: of recordings that are kept in memory, at most.
    share: fraction of the windows that are changed.
    """

    folder: str
    snr: Range = (5.0, 20.0)
    hours: Annotated[float, Field(gt=0)] = 2.0
    share: Share = 1.0
    kind: Literal["folder_noise"] = "folder_noise"

    def __call__(
        self, waveform: Float[Tensor, "batch sample"], source: Source, sample_rate: int = 16000
    ) -> Float[Tensor, "batch sample"]:
        snr = uniform(self.snr, waveform, source)
        stock = recordings(self.folder, sample_rate, self.hours, str(waveform.device))
        noise = excerpts(stock, waveform, source)
        return sometimes(self.share, waveform, add_noise(waveform, noise, snr), source)
