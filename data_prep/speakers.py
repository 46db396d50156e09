"""The speakers of the embedded corpus: their voices, their recording sessions, and one utterance of a session.

Everything here is a pure function of the seed and of ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int16
from numpy import ndarray
from numpy.random import Generator

from cpc.audio import SAMPLE_RATE, resample, to_int16
from cpc.files import write_text
from cpc.seeding import numpy_generator
from data_prep import espeak, sentences

CHAPTERS = 3  # recording sessions of each speaker
TRAIN, VALID, TEST = SUBSETS = ("train-synthetic", "dev-synthetic", "test-synthetic")

_DIALECTS = (
    *("en", "en-us", "en-us-nyc", "en-029"),
    *("en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-gb-x-rp"),
)
# Natural enough, and without echo (it would blur every boundary), whisper or vocoder.
_VARIANTS = {
    "F": "Andrea Annie aunty belinda f1 grandma linda steph steph2",
    "M": """Andy Denis Diogo Gene Jacky Lee Mario Michael Mike Nguyen Storm boris ed gustave ian iven4 john m1 m3 m4
        m5 m6 m7 m8 marcelo max michel norbert paul quincy rob robert travis victor""",
}


class Speaker(NamedTuple):
    """One voice of the corpus."""

    id: str
    sex: str
    subset: str
    voice: espeak.Voice


class Chapter(NamedTuple):
    """One recording session of a speaker: in another one the same words would sound a little different."""

    id: str
    speaker: Speaker
    pace: int  # words a minute, added to the speaker's own
    level: float  # dB: power of the speech re full scale
    snr: float  # dB
    colour: float  # of the noise: pole of a low-pass filter, of a high-pass one where negative

    @property
    def folder(self) -> Path:
        return Path("audio", self.speaker.subset, self.speaker.id, self.id)


class Utterance(NamedTuple):
    """One utterance: audio at 16 kHz, its words, and the (onset, offset, name) of its phones, in seconds."""

    text: str
    samples: Int16[ndarray, " sample"]
    phones: list[tuple[float, float, str]]


def cast(count: int, seed: int) -> list[Speaker]:
    """Women and men in turn, each of another variant, dialect, pitch and pace; the last 25% are held out."""
    test, valid = max(1, round(0.15 * count)), max(1, round(0.1 * count))
    subsets = [TRAIN] * (count - test - valid) + [VALID] * valid + [TEST] * test
    return [_speaker(place, subset, seed) for place, subset in enumerate(subsets)]


def _speaker(place: int, subset: str, seed: int) -> Speaker:
    sex, turn = "FM"[place % 2], place // 2
    shared = numpy_generator(seed, "variants", sex)  # the same draw for every speaker of this sex
    variants = shared.permutation(_VARIANTS[sex].split()).tolist()
    dialects = shared.integers(len(_DIALECTS), size=len(variants))
    lap, variant = divmod(turn, len(variants))  # a variant comes again only when all are used, in another dialect
    dialect = _DIALECTS[(int(dialects[variant]) + lap) % len(_DIALECTS)]
    draw = numpy_generator(seed, "speaker", place)
    rate, pitch, pitch_range = (int(draw.integers(*ends)) for ends in ((145, 185), (35, 66), (35, 75)))
    voice = espeak.Voice(f"{dialect}+{variants[variant]}", rate, pitch, pitch_range)
    return Speaker(str(1001 + place), sex, subset, voice)


def chapters(speaker: Speaker, seed: int) -> list[Chapter]:
    """The recording sessions of a speaker."""
    return [_chapter(f"{speaker.id}{number}", speaker, seed) for number in range(1, CHAPTERS + 1)]


def _chapter(id: str, speaker: Speaker, seed: int) -> Chapter:
    draw = numpy_generator(seed, "chapter", id)
    level, snr, colour = draw.uniform(-28, -18), draw.uniform(31, 44), draw.uniform(-0.3, 0.9)
    return Chapter(id, speaker, int(draw.integers(-8, 9)), level, snr, colour)


def utterance(chapter: Chapter, id: str, seed: int) -> Utterance:
    """Speak and record one utterance of about 2 to 12 s: a pure function of the seed and the id."""
    draw = numpy_generator(seed, "utterance", id)
    text = sentences.passage(draw, int(draw.integers(5, 19)))
    voice = chapter.speaker.voice
    speech = espeak.speak(text, voice._replace(rate=voice.rate + chapter.pace))
    before, after = draw.integers(espeak.SAMPLE_RATE // 10, espeak.SAMPLE_RATE // 3, size=2).tolist()
    quiet = espeak.surround(speech, before, after)
    samples = to_int16(_record(quiet.samples, chapter, draw))
    return Utterance(text, samples, _in_seconds(espeak.segment(quiet), len(samples) / SAMPLE_RATE))


def _record(speech: Int16[ndarray, " native"], chapter: Chapter, draw: Generator) -> Float32[ndarray, " sample"]:
    """Resample to 16 kHz, bring to the session's level, and add its noise. The peak stays below full scale."""
    clean = resample(speech.astype(np.float32) / np.float32(32768), espeak.SAMPLE_RATE, SAMPLE_RATE)
    power = float(np.sqrt(np.mean(np.square(clean))))
    level = _decibels(chapter.level + draw.uniform(-1.5, 1.5))
    gain = min(level / power, 0.9 / float(np.abs(clean).max()))
    noise = gain * power * _decibels(-chapter.snr - draw.uniform(-1, 1))
    return np.float32(gain) * clean + np.float32(noise) * _noise(len(clean), chapter.colour, draw)


def _decibels(level: float) -> float:
    return float(10 ** (level / 20))


def _noise(samples: int, colour: float, draw: Generator) -> Float32[ndarray, " sample"]:
    """Noise of unit power, through the first 12 terms of a one-pole filter."""
    kernel = np.power(colour, np.arange(12)).astype(np.float32)
    kernel /= np.linalg.norm(kernel)
    white = draw.standard_normal(samples + len(kernel) - 1, dtype=np.float32)
    return np.convolve(white, kernel, "valid").astype(np.float32)


def _in_seconds(phones: list[espeak.Phone], end: float) -> list[tuple[float, float, str]]:
    """Phones in seconds; the last one lasts to the `end` of the resampled audio, which rounding may have moved."""
    edges = [phone.start / espeak.SAMPLE_RATE for phone in phones] + [end]
    return [(*times, phone.name) for times, phone in zip(pairwise(edges), phones, strict=True)]


def write_tables(out: Path, people: Sequence[Speaker], minutes: Mapping[Chapter, float]) -> None:
    """SPEAKERS.TXT and CHAPTERS.TXT as LibriSpeech has them."""
    lines = [";ID  |SEX| SUBSET           |MINUTES| NAME\n"]
    for who in people:
        spoken = sum(length for chapter, length in minutes.items() if chapter.speaker == who)
        name = f"eSpeak NG {who.voice.name}, pitch {who.voice.pitch} of range {who.voice.pitch_range}"
        lines.append(f"{who.id:<5}| {who.sex} | {who.subset:<17}| {spoken:5.2f} | {name}\n")
    sessions = [";ID    |READER|MINUTES| SUBSET           | PROJ.|BOOK ID| CH. TITLE | PROJECT TITLE\n"]
    for number, (chapter, length) in enumerate(minutes.items()):
        who, title = chapter.speaker, f"Session {number % CHAPTERS + 1}"
        sessions.append(
            f"{chapter.id:<7}| {who.id:<5}| {length:5.2f} | {who.subset:<17}| 0    | 0     | {title} | Synthetic\n"
        )
    write_text(out / "SPEAKERS.TXT", "".join(lines))
    write_text(out / "CHAPTERS.TXT", "".join(sessions))
