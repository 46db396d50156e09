"""The baselines: geometry of the frames, padding that changes nothing, and what the numbers mean."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cpc.audio.mfcc import FLOOR, HOP, MFCC39, SAMPLE_RATE, WINDOW, LogMel

FRONTENDS = (MFCC39, LogMel)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("frontend", FRONTENDS)
@pytest.mark.parametrize("samples", [0, 1, 399, 400, 559, 560, 16000, 16001])
def test_frames_counts_what_forward_gives(frontend: type, samples: int) -> None:
    module = frontend()
    assert module(noise(2, samples)).shape == (2, module.frames(samples), module.dim)


def test_every_window_lies_inside_the_audio() -> None:
    # The last of T windows ends at sample 160 (T − 1) + 400, and one more would not fit.
    for samples in range(400, 3000, 37):
        frames = LogMel().frames(samples)
        assert HOP * (frames - 1) + WINDOW <= samples < HOP * frames + WINDOW


@pytest.mark.parametrize("frontend", FRONTENDS)
def test_padded_batch_equals_one_by_one(frontend: type) -> None:
    module, lengths = frontend(), [400, 650, 4000, 7999, 8000]
    # Loud padding: whatever stands there must not be heard.
    batch = noise(len(lengths), 9000)
    together = module(batch, torch.tensor(lengths))
    for line, length, features in zip(batch, lengths, together, strict=True):
        alone = module(line[None, :length])[0]
        torch.testing.assert_close(features[: module.frames(length)], alone, atol=1e-5, rtol=0)


def test_without_lengths_the_slopes_would_see_the_padding() -> None:
    # The test above has teeth: this is what it guards against.
    module, batch = MFCC39(), noise(1, 9000)
    alone = module(batch[:, :4000])
    assert (module(batch)[:, : alone.shape[1]] - alone).abs().max() > 1e-2


@pytest.mark.parametrize("frontend", FRONTENDS)
def test_centres_are_where_an_impulse_is_heard_most(frontend: type) -> None:
    # An impulse at sample i has the power of the squared Hann window at i − 160 t: highest at the window's centre.
    module = frontend()
    for frame in (3, 10):
        sample = round(module.frame_centres(20)[frame] * SAMPLE_RATE - 0.5)  # sample i spans [i, i + 1)
        energy = []
        for shift in (-1, 0, 1):
            waveform = torch.zeros(1, 4000)
            waveform[0, sample + shift] = 100.0  # loud enough for the floor not to matter
            energy.append(float(module.log_mel(waveform)[0, frame].exp().sum()))
        assert energy[1] == max(energy)
        assert energy[0] == pytest.approx(energy[2], rel=1e-4)


def test_centres_are_a_hop_apart() -> None:
    np.testing.assert_allclose(np.diff(MFCC39().frame_centres(50)), HOP / SAMPLE_RATE)


def test_log_mel_peaks_at_the_tone() -> None:
    # 80 bands evenly spaced in mel from 0 to 8 kHz, the centre of band i at (i + 1)/81 of the range.
    mel = lambda hertz: 2595 * math.log10(1 + hertz / 700)  # noqa: E731
    seconds = torch.arange(SAMPLE_RATE) / SAMPLE_RATE
    for hertz in (300.0, 1000.0, 3000.0):
        tone = 0.5 * torch.sin(2 * math.pi * hertz * seconds)[None]
        nearest = round(mel(hertz) / mel(8000) * 81) - 1
        assert abs(int(LogMel()(tone)[0, 50].argmax()) - nearest) <= 1


def test_no_mel_band_is_empty() -> None:
    assert (LogMel()(noise(1, 16000)) > math.log(FLOOR)).all()


def test_digital_silence_is_finite_and_floored() -> None:
    torch.testing.assert_close(LogMel()(torch.zeros(1, 4000)), torch.full((1, 23, 80), math.log(FLOOR)))
    assert MFCC39()(torch.zeros(1, 4000)).isfinite().all()


def test_a_louder_signal_moves_the_zeroth_coefficient_alone() -> None:
    # Gain g adds 2 ln g to every log band; an orthonormal cosine transform of 40 equal bands a is a √40 in place 0.
    quiet, loud = MFCC39()(noise(1, 8000)), MFCC39()(10 * noise(1, 8000))
    expected = torch.zeros(39)
    expected[0] = 2 * math.log(10) * math.sqrt(40)
    torch.testing.assert_close(loud - quiet, expected.expand_as(loud), atol=2e-3, rtol=0)


def test_slopes_of_a_steady_rise_are_its_rate() -> None:
    # A signal of period 160 that swells as exp(3 t) is the same in each frame but for the gain exp(3 · 10 ms):
    # c0 rises by 2 · 0.03 · √40 a frame. That is its slope; the slope of the slope is zero.
    seconds = torch.arange(SAMPLE_RATE, dtype=torch.float64) / SAMPLE_RATE
    waveform = (100 * noise(HOP).repeat(100) * torch.exp(3 * seconds)).float()
    c0, slope, bend = MFCC39()(waveform[None])[0, :, [0, 13, 26]].unbind(1)
    step = torch.tensor(2 * 0.03 * math.sqrt(40))
    torch.testing.assert_close(c0.diff(), step.expand(len(c0) - 1), atol=1e-3, rtol=0)
    torch.testing.assert_close(slope[2:-2], step.expand(len(c0) - 4), atol=1e-3, rtol=0)
    assert bend[4:-4].abs().max() < 1e-3
