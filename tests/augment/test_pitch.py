"""Pitch moves by cents and events stay, tempo the other way round; vocoder and synthesis are those of libraries."""

import math

import pytest
import torch
from torch import Tensor

from cpc.augment.parameters import rms
from cpc.augment.pitch import FRAME, HOP, analyse, change_tempo, interpolate, shift_pitch, synthesise, vocode

RATE, SAMPLES = 16000, 20480
TIME = torch.arange(SAMPLES) / RATE


def frequency(wave: Tensor) -> float:
    """Hz of the strongest component of (sample), by a spectrum of 0.03 Hz a bin."""
    size = 1 << 19
    spectrum = torch.fft.rfft(wave * torch.hann_window(len(wave)), n=size).abs()
    return float(spectrum.argmax()) * RATE / size


@pytest.mark.parametrize("hz", [150.0, 440.0, 3000.0])
def test_a_tone_moves_by_its_cents(hz: float) -> None:
    cents = torch.tensor([-300.0, -50.0, 0.0, 120.0, 300.0])
    wave = torch.sin(2 * math.pi * hz * TIME).repeat(5, 1)
    shifted = shift_pitch(wave, cents)
    assert shifted.shape == wave.shape
    for row, expected in zip(shifted, cents.tolist(), strict=True):
        assert 1200 * math.log2(frequency(row) / hz) == pytest.approx(expected, abs=1.5)
    assert (rms(shifted[:, 1000:-1000]) / rms(wave[:, 1000:-1000]) - 1).abs().max() < 0.03


def test_events_stay_where_they_are_when_pitch_moves() -> None:
    burst = torch.exp(-(((TIME - 0.9) / 0.02) ** 2)) * torch.sin(2 * math.pi * 500 * TIME)
    shifted = shift_pitch(burst.repeat(2, 1), torch.tensor([-300.0, 300.0])).square()
    centre = (shifted * TIME).sum(-1) / shifted.sum(-1)
    torch.testing.assert_close(centre, torch.full((2,), 0.9), atol=2e-3, rtol=0)


def test_what_would_pass_half_the_sample_rate_is_removed() -> None:
    """7.6 kHz up by 300 cents would be 9.04 kHz and fold back to 6.96 kHz."""
    wave = torch.sin(2 * math.pi * 7600 * TIME)[None]
    assert rms(shift_pitch(wave, torch.tensor([300.0]))) < 0.01 * rms(wave)


def test_tempo_keeps_the_pitch_and_moves_events() -> None:
    rates = torch.tensor([0.8, 1.0, 1.25])
    beat = 1 + 0.8 * torch.sin(2 * math.pi * 8 * TIME)
    wave = (beat * torch.sin(2 * math.pi * 440 * TIME)).repeat(3, 1)
    found = change_tempo(wave, rates)
    assert found.shape == (3, int(SAMPLES / 1.25))
    for row, rate in zip(found, rates.tolist(), strict=True):
        assert frequency(row) == pytest.approx(440, abs=0.5)
        envelope = row.square()
        assert frequency(envelope - envelope.mean()) == pytest.approx(8 * rate, rel=0.04)
        assert rms(row[None, -2000:]) > 0.2  # signal up to the end


@pytest.mark.parametrize("rate", [0.75, 1.0, 1.25])
def test_vocoder_is_torchaudios_at_one_rate(rate: float) -> None:
    from torchaudio.functional import phase_vocoder

    # Rates that are sums of powers of two, so that both count the same frames below a whole number.
    wave = torch.randn(2, 4096, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spectrum = analyse(wave)  # (batch, frame, bin)
    advance = math.pi * HOP * torch.linspace(0, 1, spectrum.shape[2], dtype=torch.float64)[:, None]
    theirs = phase_vocoder(spectrum.transpose(1, 2), rate, advance).transpose(1, 2)
    ours = vocode(spectrum, torch.full((2,), rate, dtype=torch.float64), theirs.shape[1])
    torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("samples", [20480, 19980, 20540])  # as many as were analysed, fewer, more
def test_synthesis_is_torchs(twice: bool, samples: int) -> None:
    spectrum = analyse(torch.randn(2, 20480, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    size = 2 * FRAME if twice else FRAME
    padded = torch.nn.functional.pad(spectrum, (0, size // 2 + 1 - spectrum.shape[2])).transpose(1, 2)
    window = torch.hann_window(size, dtype=torch.float64)
    expected = torch.istft(padded, size, size // 4, window=window, length=samples * size // FRAME)
    torch.testing.assert_close(synthesise(spectrum, samples, twice), size // FRAME * expected)


def test_interpolation_is_exact_for_quadratics_and_at_samples() -> None:
    """Catmull-Rom polynomials reproduce squares; between the ends four neighbours exist."""
    x = torch.arange(20, dtype=torch.float64)
    place = torch.tensor([[1.0, 2.5, 7.25, 16.9]], dtype=torch.float64)
    torch.testing.assert_close(interpolate((x**2)[None], place), place**2)
    noise = torch.randn(1, 20, dtype=torch.float64)
    torch.testing.assert_close(interpolate(noise, x[None]), noise)


def test_no_shift_leaves_a_tone_as_it_is() -> None:
    wave = torch.sin(2 * math.pi * 700 * TIME)[None]
    inner = slice(600, -600)
    torch.testing.assert_close(shift_pitch(wave, torch.zeros(1))[:, inner], wave[:, inner], atol=5e-3, rtol=0)
