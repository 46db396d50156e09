"""Noise: its level, its colour, and where recordings are read from."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from cpc.augment.noise import FolderNoise, add_noise, coloured
from cpc.augment.parameters import rms
from cpc.augment.recordings import excerpts, recordings, responses
from cpc.augment.reverb import MeasuredReverb
from cpc.config import InputError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_snr_is_exact() -> None:
    wave, noise = torch.randn(4, 3000, dtype=torch.float64), torch.rand(4, 3000, dtype=torch.float64)
    snr = torch.tensor([-5.0, 0.0, 12.5, 60.0], dtype=torch.float64)
    added = add_noise(wave, noise, snr) - wave
    torch.testing.assert_close(20 * (rms(wave) / rms(added)).log10()[:, 0], snr)
    assert torch.equal(torch.sign(added), torch.sign(noise))


def test_silence_gets_no_noise_and_silent_noise_adds_nothing() -> None:
    wave, none = torch.randn(2, 100), torch.zeros(2, 100)
    assert torch.equal(add_noise(none, wave, torch.zeros(2)), none)
    assert torch.equal(add_noise(wave, none, torch.zeros(2)), wave)


def test_the_spectrum_falls_by_ten_decibels_a_decade_and_unit_of_exponent() -> None:
    exponent = torch.tensor([0.0, 1.0, 2.0, -1.0])
    found = coloured(torch.zeros(4, 1 << 16), exponent, generator())
    power = torch.fft.rfft(found.double()).abs().square()
    bands = [power[:, 2**i : 2 ** (i + 1)].mean(-1) for i in range(5, 15)]  # octaves of 32 to 16384 bins
    level = 10 * torch.stack(bands).log10()
    slope = np.polyfit(np.arange(10) * math.log10(2), level.numpy(), 1)[0]
    np.testing.assert_allclose(slope, -10 * exponent.numpy(), atol=0.5)
    torch.testing.assert_close(found.mean(-1), torch.zeros(4), atol=1e-6, rtol=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two recordings of constant value, 3000 and 1000 samples: where a sample is from can be read off it."""
    (tmp_path / "noise").mkdir()
    for name, value, samples in (("a", 0.25, 3000), ("b", -0.5, 1000)):
        soundfile.write(tmp_path / "noise" / f"{name}.wav", np.full(samples, value), 16000, subtype="PCM_16")
    return tmp_path / "noise"


def test_excerpts_stay_in_one_recording_in_proportion_to_its_length(folder: Path) -> None:
    stock = recordings(str(folder), 16000, 1.0, "cpu")
    assert sorted(stock.lengths.tolist()) == [1000, 3000]
    found = excerpts(stock, torch.zeros(2000, 1500), generator())
    assert (found == found[:, :1]).all()  # 1500 of 1000 samples: the shorter one goes on from its beginning
    share = float((found[:, 0] == 0.25).float().mean())
    assert share == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / 2000))


def test_recordings_are_read_up_to_the_hours_asked_for(folder: Path) -> None:
    stock = recordings(str(folder), 16000, 2000 / 16000 / 3600, "cpu")
    assert len(stock.samples) == 2000 == int(stock.lengths.sum())


def test_noise_from_a_folder_is_at_its_level(folder: Path) -> None:
    wave = torch.randn(3, 4000)
    found = FolderNoise(str(folder), snr=(10.0, 10.0))(wave, generator()) - wave
    torch.testing.assert_close(20 * (rms(wave) / rms(found)).log10(), torch.full((3, 1), 10.0), rtol=1e-3, atol=1e-3)


def test_measured_rooms_begin_with_the_direct_sound(tmp_path: Path) -> None:
    taps = np.zeros(500)
    taps[[120, 200]] = -0.8, 0.2  # 120 samples of travel, then the direct sound and one echo
    soundfile.write(tmp_path / "room.wav", taps, 16000, subtype="FLOAT")
    found = responses(str(tmp_path), 16000, 0.01, "cpu")
    assert found.shape == (1, 160)
    torch.testing.assert_close(found[0, [0, 80]], torch.tensor([1.0, -0.25]))
    wave = torch.zeros(1, 400)
    wave[0, 100] = 1.0
    heard = MeasuredReverb(str(tmp_path), seconds=0.01)(wave, generator())
    expected = torch.tensor([1.0, -0.25]) / math.hypot(1, 0.25)  # as loud as before
    torch.testing.assert_close(heard[0, [100, 180]], expected, atol=1e-5, rtol=0)


def test_a_folder_without_sound_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        FolderNoise(str(tmp_path / "none"))(torch.randn(1, 100), generator())
    soundfile.write(tmp_path / "flat.wav", np.zeros(100), 16000)
    with pytest.raises(InputError, match=r"flat\.wav: silent, so it is no impulse response"):
        MeasuredReverb(str(tmp_path))(torch.randn(1, 100), generator())
