"""Pitch without tempo and tempo without pitch: a phase vocoder with a rate of its own for each example.

torchaudio's vocoder takes one rate for a batch; this one picks frames by index, and multiplies unit phasors where
others add angles, which needs neither arctangents nor unwrapping (Flanagan & Golden 1966; Laroche & Dolson 1999).
Tones keep their amplitude within 3%, noise loses up to 2 decibels. A window of 32 ms looks 16 ms ahead.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Complex, Float
from pydantic.dataclasses import dataclass
from torch import Tensor

from cpc.augment.parameters import PositiveRange, Range, Share, Source, in_float32, sometimes, uniform
from cpc.config import STRICT

FRAME, HOP = 512, 128  # samples of an analysis window (32 ms at 16 kHz) and from one to the next


@in_float32
def shift_pitch(
    waveform: Float[Tensor, "batch sample"], cents: Float[Tensor, "batch"], most: float | None = None
) -> Float[Tensor, "batch sample"]:
    """Every frequency times 2^(cents / 1200), events where they were. `most`: no example is shifted by more cents.

    The vocoder makes the signal longer by that ratio at twice the sample rate; reading it faster by the same ratio
    restores its length. What would pass half the sample rate is removed before.
    """
    ratio = 2.0 ** (cents.to(waveform.dtype) / 1200)
    highest = float(ratio.max()) if most is None else 2.0 ** (most / 1200)
    spectrum = analyse(waveform)
    bins = torch.arange(spectrum.shape[2], device=waveform.device)
    spectrum = spectrum * (bins * ratio[:, None] <= FRAME // 2)[:, None]
    frames = math.ceil(waveform.shape[1] * highest / HOP) + 2
    longer = synthesise(lock(vocode(spectrum, 1 / ratio, frames)), (frames - 1) * HOP, twice=True)
    place = torch.arange(waveform.shape[1], device=waveform.device) * (2 * ratio[:, None])
    return interpolate(longer, place)


@in_float32
def change_tempo(
    waveform: Float[Tensor, "batch sample"], rate: Float[Tensor, "batch"], fastest: float | None = None
) -> Float[Tensor, "batch shorter"]:
    """Each example played `rate` times as fast at its own pitch; as many samples as the `fastest` rate leaves."""
    samples = int(waveform.shape[1] / (float(rate.max()) if fastest is None else fastest))
    frames = samples // HOP + 2
    return synthesise(lock(vocode(analyse(waveform), rate.to(waveform.dtype), frames)), samples)


def analyse(waveform: Float[Tensor, "batch sample"]) -> Complex[Tensor, "batch frame bin"]:
    """Short-time spectra, frame t centred at sample t · HOP."""
    window = torch.hann_window(FRAME, device=waveform.device, dtype=waveform.dtype)
    padded = F.pad(waveform, (FRAME // 2, FRAME // 2))
    spectrum = torch.stft(padded, FRAME, HOP, window=window, center=False, return_complex=True)
    return spectrum.transpose(1, 2)


def vocode(
    spectrum: Complex[Tensor, "batch frame bin"], rate: Float[Tensor, "batch"], frames: int
) -> Complex[Tensor, "batch {frames} bin"]:
    """Frames at the times 0, rate, 2 · rate …: amplitudes lie between two neighbours, phases advance as they do.

    Behind the last frame there is silence.
    """
    times = torch.arange(frames, device=spectrum.device) * rate[:, None]
    index = times.long().clamp(max=spectrum.shape[1])
    row = torch.arange(len(spectrum), device=spectrum.device)[:, None]
    padded = F.pad(spectrum, (0, 0, 0, 2))
    here, after = padded[row, index], padded[row, index + 1]  # (batch, frame, bin)
    share = (times - times.floor())[..., None]
    amplitude = (1 - share) * here.abs() + share * after.abs()
    advance = _phasor(here.conj() * after)
    phase = torch.cat([_phasor(here[:, :1]), advance[:, :-1]], dim=1).cumprod(dim=1)
    return amplitude * _phasor(phase)


def lock(spectrum: Complex[Tensor, "batch frame bin"]) -> Complex[Tensor, "batch frame bin"]:
    """The same amplitudes, with each bin's phase drawn to that of the strongest bin beside it (Puckette 1995).

    Bins of one partial advance apart from each other; where their phases part, they cancel. Neighbours of a steady
    tone have opposite signs, because the window begins at time 0 of its transform.
    """
    padded = F.pad(spectrum, (1, 1))
    return spectrum.abs() * _phasor(spectrum - padded[..., :-2] - padded[..., 2:])


def synthesise(
    spectrum: Complex[Tensor, "batch frame bin"], samples: int, twice: bool = False
) -> Float[Tensor, "batch longer"]:
    """The signal of these frames by overlap and add; with `twice`, at twice the sample rate (2 · samples).

    What `torch.istft` gives, which on a GPU waits to see that the windows cover every sample. These do.
    """
    size, hop = (2 * FRAME, 2 * HOP) if twice else (FRAME, HOP)
    window = torch.hann_window(size, device=spectrum.device, dtype=spectrum.real.dtype)
    frames = torch.fft.irfft(F.pad(spectrum, (0, size // 2 + 1 - spectrum.shape[2])), size) * window
    first, length = size // 2, samples * size // FRAME
    weight = _added((window * window).expand(1, frames.shape[1], -1), hop)[:, first : first + length]
    return size // FRAME * _added(frames, hop)[:, first : first + length] / weight


def _added(frames: Float[Tensor, "batch frame size"], hop: int) -> Float[Tensor, "batch sample"]:
    """Frames, each `hop` samples after the one before, added up; their size is a multiple of `hop`."""
    parts = rearrange(frames, "b t (r h) -> r b t h", h=hop)
    total = parts.new_zeros(frames.shape[0], frames.shape[1] + len(parts) - 1, hop)
    for place, part in enumerate(parts):
        total[:, place : place + frames.shape[1]] += part
    return total.flatten(1)


def interpolate(
    x: Float[Tensor, "batch longer"], place: Float[Tensor, "batch sample"]
) -> Float[Tensor, "batch sample"]:
    """x at fractional places by cubic polynomials through four neighbours (Catmull & Rom 1974)."""
    index = place.long()
    s = place - index
    padded = F.pad(x, (1, 2))  # neighbour −1 of place 0 now has index 0
    a, b, c, d = (padded.gather(1, (index + i).clamp(max=padded.shape[1] - 1)) for i in range(4))
    return b + s / 2 * (c - a + s * (2 * a - 5 * b + 4 * c - d + s * (3 * (b - c) + d - a)))


def _phasor(z: Complex[Tensor, "batch frame bin"]) -> Complex[Tensor, "batch frame bin"]:
    """z / |z|, and 1 where z is 0."""
    length = z.abs()
    return torch.where(length > 0, z / length.clamp_min(torch.finfo(length.dtype).tiny), 1.0)


@dataclass(frozen=True, config=STRICT)
class PitchShift:
    """A shift in cents (100 a semitone), drawn uniformly; ±300 in Kharitonov et al. 2020, section 3.1.

    cents: hundredths of a semitone, from and to.
    share: fraction of the windows that are changed.
    """

    cents: Range = (-300.0, 300.0)
    share: Share = 1.0
    kind: Literal["pitch_shift"] = "pitch_shift"

    def __call__(
        self, waveform: Float[Tensor, "batch sample"], source: Source, sample_rate: int = 16000
    ) -> Float[Tensor, "batch sample"]:
        changed = shift_pitch(waveform, uniform(self.cents, waveform, source), self.cents[1])
        return sometimes(self.share, waveform, changed, source)


@dataclass(frozen=True, config=STRICT)
class TimeStretch:
    """A rate drawn uniformly; every example is cut to what the highest rate leaves of it, so none ends in silence.

    rate: tempo, from and to.
    """

    rate: PositiveRange = (0.9, 1.1)
    kind: Literal["time_stretch"] = "time_stretch"

    def __call__(
        self, waveform: Float[Tensor, "batch sample"], source: Source, sample_rate: int = 16000
    ) -> Float[Tensor, "batch shorter"]:
        return change_tempo(waveform, uniform(self.rate, waveform, source), self.rate[1])
