"""Pauses: the noise floor moves with the recording, cuts lie in pauses, and nothing that was said is lost."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cpc.audio.decode import decode, find_audio
from data_prep.cutting import PAUSE, SHORTEST, cut, find_quiet, frame_levels, runs

RATE, HOP = 16000, 160


def talk(
    lengths: list[float], gaps: list[float], speech: float = -20.0, noise: float = -60.0, seed: int = 0
) -> np.ndarray:
    """Bursts of noise at `speech` dB, each followed by a gap; noise at `noise` dB runs through all."""
    rng = np.random.default_rng(seed)
    loud = [np.repeat([1.0, 0.0], [round(a * RATE), round(b * RATE)]) for a, b in zip(lengths, gaps, strict=True)]
    gate = np.concatenate(loud)
    wave = gate * 10 ** (speech / 20) * rng.normal(size=len(gate)) + 10 ** (noise / 20) * rng.normal(size=len(gate))
    return wave.astype(np.float32)


def levels_of(samples: np.ndarray) -> np.ndarray:
    return frame_levels(iter([samples.astype(np.float32)]), HOP)


def test_a_level_is_the_power_in_dB_whatever_the_offset_and_the_blocks() -> None:
    time = np.arange(10 * RATE) / RATE
    wave = (0.5 * np.sin(2 * np.pi * 1000 * time) + 0.25).astype(np.float32)
    levels = levels_of(wave)
    assert len(levels) == 1000
    assert np.allclose(levels, 10 * np.log10(0.5**2 / 2), atol=1e-3)  # 1000 Hz: ten whole periods in each frame
    for sizes in ([1, 2, 3], [159, 1, 161, 77777]):
        blocks = iter(np.split(wave, np.cumsum(sizes)))
        assert np.array_equal(frame_levels(blocks, HOP), levels)


def test_nothing_and_nonsense_have_levels_too() -> None:
    assert len(frame_levels(iter([]), HOP)) == 0
    assert len(levels_of(np.zeros(HOP - 1))) == 0
    strange = np.full(HOP, np.nan, np.float32)
    strange[:3] = np.inf, -np.inf, 1e30
    levels = levels_of(np.concatenate([strange, np.zeros(HOP)]))
    assert np.isfinite(levels).all()
    assert levels[1] == -100


@pytest.mark.parametrize(("speech", "noise"), [(-20, -90), (-20, -60), (-20, -40), (-45, -70), (-3, -30)])
def test_pauses_are_found_at_any_level_of_speech_and_noise(speech: float, noise: float) -> None:
    lengths, gaps = [2.0, 0.5, 4.0, 1.0, 3.0], [0.5, 0.1, 0.7, 0.35, 0.3]
    found = runs(find_quiet(levels_of(talk(lengths, gaps, speech, noise))), PAUSE)
    ends = np.cumsum(np.stack([lengths, gaps], 1).ravel()).reshape(-1, 2)[[0, 2, 3, 4]]
    assert np.abs(found - 100 * ends).max() <= 1  # frames; the gap of 0.1 s is none


def test_the_floor_follows_a_recording_that_grows_louder() -> None:
    # Two minutes at −50 dB over noise at −75, two at −20 over −45: noise of the second half is as loud as speech was.
    first, second = (talk([2.5] * 40, [0.5] * 40, *at, seed=1) for at in ((-50, -75), (-20, -45)))
    found = runs(find_quiet(levels_of(np.concatenate([first, second]))), PAUSE)
    middles = found.mean(axis=1) / 100
    true = np.arange(80) * 3 + 2.75
    near = np.abs(middles[:, None] - true).min(axis=0) < 0.05
    assert near.mean() > 0.9  # those that the turn confuses lie within a window of it
    assert set(np.flatnonzero(~near)) <= set(range(33, 47))


@pytest.mark.parametrize("make", ["hum", "noise", "speech without a pause"])
def test_where_nothing_pauses_no_pause_is_found(make: str) -> None:
    time = np.arange(90 * RATE) / RATE
    rng = np.random.default_rng(0)
    wave = {
        "hum": 0.1 * np.sin(2 * np.pi * 50 * time),
        "noise": 0.1 * rng.normal(size=len(time)),
        "speech without a pause": rng.normal(size=len(time)) * (0.11 + 0.1 * np.sin(2 * np.pi * 4 * time)),
    }[make]
    assert not len(runs(find_quiet(levels_of(wave)), PAUSE))


def test_digital_silence_is_quiet() -> None:
    assert find_quiet(levels_of(np.zeros(RATE))).all()


def test_the_longest_pause_in_the_second_half_is_taken() -> None:
    # Of 30 s at most, cuts lie between 15 and 30 s: pauses of 0.4 s at 8, 0.5 at 18.4 and 0.4 at 25.9.
    lengths, gaps = [8.0, 10.0, 7.0, 14.0], [0.4, 0.5, 0.4, 0.2]
    spans = cut(levels_of(talk(lengths, gaps)), 30)
    assert spans == [(0, 1865), (1865, 4050)]
    assert cut(levels_of(talk(lengths, gaps)), 41) == [(0, 4050)]


def test_without_a_pause_the_quietest_frame_is_taken() -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 70 * RATE)
    wave[43 * RATE : 43 * RATE + HOP] *= 0.5  # ten milliseconds, 6 dB down
    assert cut(levels_of(wave), 60) == [(0, 4300), (4300, 7000)]


def test_long_silences_are_left_out_but_for_half_of_what_may_stay() -> None:
    wave = np.concatenate([np.zeros(3 * RATE), talk([5, 4, 3], [0.6, 2.0, 4.0], noise=-200)])
    # Speech from 3 to 8, 8.6 to 12.6 and 14.6 to 17.6 s, silence to 21.6. Of silences over 1 s half a second stays.
    assert cut(levels_of(wave), 60, trim=1) == [(250, 1310), (1410, 1810)]
    assert cut(levels_of(wave), 60, trim=0.4) == [(280, 820), (840, 1280), (1440, 1780)]
    assert cut(levels_of(wave), 60, trim=5) == [(0, 2160)]


def test_of_nothing_but_silence_nothing_is_left() -> None:
    assert cut(levels_of(np.zeros(10 * RATE)), 60, trim=1) == []
    assert cut(levels_of(np.zeros(10 * RATE)), 60) == [(0, 1000)]


LEVELS = hnp.arrays(np.float32, st.integers(0, 3000), elements=st.sampled_from([-100, -70, -60, -30, -20, -19.5]))


@given(LEVELS, st.floats(2 * SHORTEST, 12))
def test_without_trimming_spans_cover_all_and_are_neither_too_long_nor_too_short(
    levels: np.ndarray, longest: float
) -> None:
    spans = cut(levels, longest)
    assert spans[0][0] == 0
    assert spans[-1][1] == len(levels)
    assert all(before[1] == after[0] for before, after in pairwise(spans))
    lengths = [stop - start for start, stop in spans]
    assert max(lengths) <= round(longest * 100)
    assert len(spans) == 1 or min(lengths) >= 100 * SHORTEST


ODD = np.array(
    [-70.0, *[-100.0] * 51, -70.0], np.float32
)  # a silence of 51 frames, and half of a trim of 51.17 is 25.6


@given(LEVELS, st.floats(2 * SHORTEST, 12), st.floats(0.2, 3))
@example(ODD, 2.0, 0.51171875)
def test_trimming_leaves_out_nothing_but_long_silences(levels: np.ndarray, longest: float, trim: float) -> None:
    spans = cut(levels, longest, trim)
    kept = np.zeros(len(levels), bool)
    for start, stop in spans:
        assert 0 <= start < stop <= len(levels)
        assert stop - start <= round(longest * 100)
        assert not kept[start:stop].any()
        kept[start:stop] = True
    in_long_silence = np.zeros(len(levels), bool)
    for start, stop in runs(find_quiet(levels), trim):
        in_long_silence[start:stop] = True
    assert np.all(kept | in_long_silence)


def test_real_speech_is_cut_where_nobody_speaks(speech: Path) -> None:
    """Utterances joined by gaps of 0.5 to 1 s, cut at 20 s: cuts lie in the gaps, or where the speaker pauses."""
    rng = np.random.default_rng(0)
    parts = []
    for file in find_audio(speech / "audio" / "libri-tc100-251spk")[:25]:
        parts += [decode(file), rng.normal(0, 1e-3, rng.integers(RATE // 2, RATE)).astype(np.float32)]
    levels = levels_of(np.concatenate(parts))
    spans = cut(levels, 20)
    loud = np.percentile(levels, 95)
    around = [levels[max(stop - 10, 0) : stop + 10].max() for _, stop in spans[:-1]]  # a fifth of a second
    assert len(spans) >= sum(map(len, parts)) / RATE / 20
    assert np.mean(np.array(around) < loud - 10) >= 0.95
