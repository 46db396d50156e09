"""What gain, filters, cuts and rooms do to a signal, in the numbers of their definitions."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cpc.augment.crop import crop, silence
from cpc.augment.filters import low_pass, reject
from cpc.augment.gain import amplify
from cpc.augment.parameters import rms
from cpc.augment.reverb import response, reverberate

RATE, SAMPLES = 16000, 20480


def tone(hz: float, samples: int = SAMPLES) -> Tensor:
    return torch.sin(2 * math.pi * hz * torch.arange(samples, dtype=torch.float64) / RATE)


def db(after: Tensor, before: Tensor) -> Tensor:
    """Level of `after` over that of `before`, edges left out."""
    inner = slice(2000, -2000)
    return 20 * (rms(after[:, inner]) / rms(before[:, inner])).log10()[:, 0]


def test_gain_is_exact_in_decibels() -> None:
    wave, gains = torch.randn(3, 1000, dtype=torch.float64), torch.tensor([-6.0, 0.0, 20.0], dtype=torch.float64)
    louder = amplify(wave, gains)
    torch.testing.assert_close(20 * (rms(louder) / rms(wave)).log10()[:, 0], gains)
    assert torch.equal(louder[1], wave[1])
    torch.testing.assert_close(louder[2], 10 * wave[2])


@pytest.mark.parametrize("hz", [300.0, 1000.0, 3500.0])
def test_a_rejected_band_kills_what_is_in_it_and_nothing_else(hz: float) -> None:
    wave = torch.stack([tone(hz)] * 3)
    low = torch.tensor([hz - 100, hz + 120, hz - 300], dtype=torch.float64)
    high = torch.tensor([hz + 100, hz + 300, hz - 120], dtype=torch.float64)
    change = db(reject(wave, low, high, RATE), wave)
    assert change[0] < -50
    assert change[1:].abs().max() < 0.05


def test_low_pass_keeps_what_is_below_and_kills_what_is_above() -> None:
    cutoff = torch.tensor([3000.0, 3000.0, 3000.0])
    wave = torch.stack([tone(2900), tone(3300), tone(7000)]).float()
    change = db(low_pass(wave, cutoff, RATE), wave)
    assert abs(change[0]) < 0.05
    assert change[1:].max() < -50


def test_filters_do_not_wrap_round() -> None:
    """An impulse at the end must leave the beginning silent."""
    wave = torch.zeros(1, 8000)
    wave[0, -1] = 1.0
    for filtered in (
        reject(wave, torch.tensor([500.0]), torch.tensor([900.0])),
        low_pass(wave, torch.tensor([3000.0])),
    ):
        assert filtered[:, :4000].abs().max() < 1e-4


def test_crops_are_pieces_from_first_to_last() -> None:
    wave = torch.arange(20.0).repeat(3, 1)
    found = crop(wave, torch.tensor([0.0, 0.5, 1.0]), 8)
    assert found[:, 0].tolist() == [0, 6, 12]
    assert torch.equal(found, wave[:, :8] + found[:, :1])
    with pytest.raises(ValueError, match="samples=21: longer than the waveform of 20"):
        crop(wave, torch.zeros(3), 21)


def test_silence_is_where_it_should_be() -> None:
    found = silence(torch.ones(3, 10), torch.tensor([2.0, 0.0, 9.7]), torch.tensor([3.0, 0.9, 5.0]))
    assert found[0].tolist() == [1, 1, 0, 0, 0, 1, 1, 1, 1, 1]
    assert found[1].tolist() == [1] * 10
    assert found[2].tolist() == [1] * 9 + [0]


def test_reverberation_is_a_causal_convolution_at_the_same_level() -> None:
    rng = np.random.default_rng(0)
    wave, taps = rng.normal(size=(2, 300)), rng.normal(size=(2, 70))
    found = reverberate(torch.from_numpy(wave), torch.from_numpy(taps)).numpy()
    for row in range(2):
        plain = np.convolve(wave[row], taps[row])[:300]
        plain *= np.sqrt((wave[row] ** 2).mean() / (plain**2).mean())
        np.testing.assert_allclose(found[row], plain, atol=1e-10)
    long = torch.randn(2, 900, dtype=torch.float64)  # what comes later than the waveform lasts is not heard
    wet = reverberate(torch.from_numpy(wave), long)
    torch.testing.assert_close(wet, reverberate(torch.from_numpy(wave), long[:, :300]))


def test_a_drawn_room_has_its_decay_and_its_ratio() -> None:
    """Energy falls by 60 dB in rt60 seconds; the direct sound stands `drr` dB above all that follows."""
    rt60, drr = torch.tensor([0.3, 0.6]), torch.tensor([0.0, 9.0])
    tail = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    found = response(tail, rt60, drr, RATE)
    assert found[:, 0].tolist() == [1.0, 1.0]
    torch.testing.assert_close(-10 * found[:, 1:].square().sum(-1).log10(), drr, atol=1e-3, rtol=0)
    for row in range(2):
        left = found[row, 1:].double().square().flip(0).cumsum(0).flip(0)  # Schroeder 1965: energy still to come
        level = 10 * left.log10()
        slope = (level[int(0.2 * RATE)] - level[0]) / 0.2
        assert float(-60 / slope) == pytest.approx(float(rt60[row]), rel=0.05)
