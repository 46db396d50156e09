"""Audio files of every format become the same mono float32."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from cpc.audio import SUFFIXES, Undecodable, decode, find_audio, probe, read_audio, to_int16
from cpc.config import InputError

RATE = 16000


def tone(hertz: float, seconds: float = 1.0, rate: int = RATE, amplitude: float = 0.5) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def strongest_hertz(samples: np.ndarray, rate: int = RATE) -> float:
    return float(np.abs(np.fft.rfft(samples)).argmax() * rate / len(samples))


def test_every_int16_survives_the_way_through_float() -> None:
    steps = np.arange(-32768, 32768, dtype=np.int16)
    assert np.array_equal(to_int16(steps.astype(np.float32) / 32768), steps)


@settings(deadline=None)  # the first call imports
@given(st.floats(-4, 4, width=32))
def test_to_int16_rounds_to_the_nearest_step_and_clips(value: float) -> None:
    exact = min(max(value * 32768, -32768), 32767)
    assert abs(float(to_int16(np.array([value], np.float32))[0]) - exact) <= 0.5


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".aiff", ".w64"])
def test_lossless_files_come_back_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    soundfile.write(tmp_path / f"a{suffix}", noise, RATE, subtype="PCM_16")
    assert np.array_equal(to_int16(decode(tmp_path / f"a{suffix}")), noise)


@pytest.mark.parametrize(
    ("suffix", "kind"), [(".ogg", {}), (".mp3", {}), (".opus", {"format": "OGG", "subtype": "OPUS"})]
)
def test_lossy_files_keep_length_and_pitch(tmp_path: Path, suffix: str, kind: dict[str, str]) -> None:
    path = tmp_path / f"a{suffix}"
    soundfile.write(path, tone(1000), RATE, **kind)
    assert probe(path) == (RATE, RATE, 1)
    assert len(decode(path)) == RATE
    assert strongest_hertz(decode(path)) == 1000


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = np.random.default_rng(1).integers(-9000, 9000, (2, 3000)).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), RATE)
    assert np.array_equal(decode(tmp_path / "a.wav"), (left / 32768 + right / 32768).astype(np.float32) / 2)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_other_rates_are_resampled_without_moving_pitch_time_or_level(tmp_path: Path, rate: int) -> None:
    silence = np.zeros(rate // 2, np.float32)
    soundfile.write(
        tmp_path / "a.wav", np.concatenate([silence, tone(1000, 1.0, rate), silence]), rate, subtype="FLOAT"
    )
    samples = read_audio(tmp_path / "a.wav").numpy()
    middle = samples[RATE // 2 : RATE // 2 + RATE]
    assert len(samples) == 2 * RATE
    assert strongest_hertz(middle) == 1000
    assert np.abs(middle[800:-800] - tone(1000)[800:-800]).max() < 1e-3  # same phase: nothing was delayed


def test_what_gives_no_audio_says_why_without_repeating_the_path(tmp_path: Path) -> None:
    (tmp_path / "zero.wav").write_bytes(b"")
    (tmp_path / "text.flac").write_bytes(b"this is not audio " * 50)
    soundfile.write(tmp_path / "none.wav", np.zeros(0, np.float32), RATE)
    soundfile.write(tmp_path / "nan.wav", np.array([0, np.nan, np.inf], np.float32), RATE, subtype="FLOAT")
    reasons = {
        "zero.wav": "0 bytes",
        "text.flac": "cannot be",
        "none.wav": "no samples",
        "nan.wav": "2 samples are NaN",
    }
    for name, reason in (reasons | {"absent.wav": "no such file"}).items():
        with pytest.raises(Undecodable, match=name) as caught:
            decode(tmp_path / name)
        assert reason in caught.value.reason
        assert str(tmp_path) not in caught.value.reason


def test_long_files_read_in_blocks_equal_one_read(tmp_path: Path) -> None:
    noise = np.random.default_rng(2).integers(-32768, 32768, (1 << 20) + 12345).astype(np.int16)
    soundfile.write(tmp_path / "a.flac", noise, RATE)
    assert np.array_equal(to_int16(decode(tmp_path / "a.flac")), noise)


def test_find_audio_is_sorted_follows_links_once_and_skips_the_rest(tmp_path: Path) -> None:
    for name in ("b/x.FLAC", "a.wav", "b/a.opus", "b/._a.opus", "notes.txt", ".hidden/z.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    assert find_audio(tmp_path) == [tmp_path / name for name in ("a.wav", "b/a.opus", "b/x.FLAC")]
    assert find_audio(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    assert {".flac", ".wav", ".ogg", ".opus", ".mp3"} <= SUFFIXES


def test_find_audio_refuses_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        find_audio(tmp_path / "absent")
    with pytest.raises(InputError, match="holds no audio"):
        find_audio(tmp_path)
