"""ARPAbet: the 41 classes of forced alignment, and what other tools call them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int16
from numpy import ndarray

from cpc.config import InputError

from .lexicon import model_folder

SILENCE, SPOKEN_NOISE = "SIL", "SPN"

VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")

# The inventory of every alignment made here: silence, speech that is no phone, and CMUdict's 39 in their order.
PHONES: tuple[str, ...] = (
    *(SILENCE, SPOKEN_NOISE),
    *("AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH", "IH", "IY", "JH"),
    *("K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH"),
)

# Marks of LibriSpeech's recipes, Kaldi, Montreal Forced Aligner, Sphinx and Buckeye, in upper case, without brackets.
_SILENCES = frozenset({"", "SIL", "SP", "EPS", "PAU", "H#", "#", "SILENCE", "S", "/S"})
_NOISES = frozenset({"SPN", "NSN", "OOV", "UNK", "NOISE", "LAU", "LAUGHTER", "COUGH", "BREATH", "NS", "VOCNOISE"})
_BRACKETED = re.compile(r"^[<\[({+]+(.*?)[>\])}+]+$")


def fold(name: str) -> str:
    """The class of a phone's name: `ah0`, `AH1` and `AH` are `AH`; silence is `SIL`; noise and unknown words `SPN`.

    Raises InputError for a name that is neither a phone of CMUdict nor a known mark.
    """
    plain = name.strip().upper()
    bracketed = _BRACKETED.match(plain)
    mark = bracketed.group(1) if bracketed else plain
    if mark in _SILENCES and (bracketed or mark not in ("S", "/S")):  # <s> is silence, S a phone
        return SILENCE
    if mark in _NOISES:
        return SPOKEN_NOISE
    phone = plain[:-1] if plain[-1:] in ("0", "1", "2") else plain
    if phone not in PHONES or (phone != plain and phone not in VOWELS):
        remedy = "convert it first: known are the 39 phones of CMUdict, with or without stress, sil, sp and spn"
        raise InputError(f"phone={name!r}: is no ARPAbet phone; {remedy}")
    return phone


# --- PocketSphinx as a forced aligner of one utterance: words in, phones and words with their times out.


SAMPLE_RATE = 16000  # Hz, of the speech that the model en-us learnt
HOP = 160  # samples: a frame of PocketSphinx
WINDOW = 410  # samples that a frame looks at
# Frame j looks at samples 160·j up to 160·j + 410, around 160·j + 205. Where frame j−1 has another label, the change
# lies half way between the two centres. On eSpeak NG's speech the median error of such a boundary is 1.5 ms.
FIRST_EDGE = (WINDOW - HOP) // 2
FEWEST_FRAMES = 3  # a phone: the states of its model, none of which can be skipped
LONGEST = 120.0  # seconds: the second pass needs memory for frames × phones (140 s: 0.4 GB, 280 s: 1.8 GB)

# Beams of the first pass, tried in turn until one reaches the end of the text: PocketSphinx's own, then wider ones.
BEAMS: tuple[Mapping[str, object], ...] = (
    {},
    {"beam": 1e-80, "pbeam": 1e-80, "wbeam": 1e-80},
    {"beam": 1e-160, "pbeam": 1e-160, "wbeam": 1e-160, "maxhmmpf": -1},
)
# bestpath takes times from a lattice, which can leave a phone fewer frames than it has states.
SETTINGS: Mapping[str, object] = {"lm": None, "bestpath": False}
SCORE_UNIT = 1024 * float(np.log(1.0001))  # nats: PocketSphinx counts powers of 1.0001 and drops 10 bits

PAUSE = "<eps>"  # what stands for silence among words
Name = TypeVar("Name", int, str)
_SPEECH = range(PHONES.index(SPOKEN_NOISE) + 1, len(PHONES))


class AlignmentError(Exception):
    """An utterance that could not be aligned; the message is the reason."""


class Aligned(NamedTuple):
    """An utterance's phones (places in `PHONES`) and words; each begins at a sample and lasts until the next one.

    `score` is the mean log-likelihood of the frames of speech in nats, each relative to the likeliest of the sounds
    that the aligner had in mind: 0 would be a perfect fit. `beams` is the place in `BEAMS` that was needed.
    """

    phone_starts: list[int]
    phones: list[int]
    word_starts: list[int]
    words: list[str]
    score: float
    beams: int


class _Phone(NamedTuple):
    label: int
    start: int  # frame
    frames: int
    score: int


class _Span(NamedTuple):
    """A word or a pause."""

    name: str
    start: int  # frame
    phones: list[_Phone]


class Aligner:
    """Aligns one utterance after the other; the same utterance gives the same result whatever came before."""

    def __init__(self, lexicon: Mapping[str, str]) -> None:
        """`lexicon` has the phones of words that PocketSphinx's dictionary does not hold."""
        self.lexicon = lexicon
        self._decoders: dict[int, Any] = {}

    def align(self, samples: Int16[ndarray, " sample"], words: Sequence[str]) -> Aligned:
        """Raises AlignmentError for an utterance that has no words, no sound, or no way through its text."""
        seconds = len(samples) / SAMPLE_RATE
        if not words:
            raise AlignmentError("no transcript")
        if silent := [word for word in dict.fromkeys(words) if self.lexicon.get(word) == ""]:
            raise AlignmentError(f"words that cannot be pronounced: {', '.join(silent)}")
        if not samples.any():
            raise AlignmentError("empty audio: every sample is 0" if len(samples) else "empty audio: no samples")
        if seconds > LONGEST:
            raise AlignmentError(f"too long: {seconds:.0f} s, the aligner takes {LONGEST:.0f} s; cut it at its pauses")
        for beams in range(len(BEAMS)):
            if spans := self._try(beams, samples, words):
                return _read(spans, beams)
        raise AlignmentError(self._explain(samples, words))

    def _decoder(self, beams: int, words: Sequence[str]) -> Any:
        from pocketsphinx import Config, Decoder

        if beams not in self._decoders:
            model = model_folder()
            files = {"hmm": str(model / "en-us"), "dict": str(model / "cmudict-en-us.dict")}
            self._decoders[beams] = Decoder(Config(**files, **SETTINGS, **BEAMS[beams], loglevel="FATAL"))
        decoder = self._decoders[beams]
        for word in words:
            if word in self.lexicon and decoder.lookup_word(word) is None:
                decoder.add_word(word, self.lexicon[word], False)
        return decoder

    def _try(self, beams: int, samples: Int16[ndarray, " sample"], words: Sequence[str]) -> list[_Span]:
        """The words of the second pass, empty if it did not reach the end of the text."""
        decoder, sound = self._decoder(beams, words), samples.astype("<i2").tobytes()
        try:
            decoder.set_align_text(" ".join(words))
            _listen(decoder, sound)
            if decoder.hyp() is None:
                return []
            decoder.set_alignment()
            _listen(decoder, sound)
        except RuntimeError:
            del self._decoders[beams]  # who knows what it stopped in the middle of
            return []
        spans = [_copy(entry) for entry in decoder.get_alignment()]
        return spans if [span.name for span in spans if span.name != PAUSE] == list(words) else []

    def _explain(self, samples: Int16[ndarray, " sample"], words: Sequence[str]) -> str:
        decoder = self._decoder(0, words)
        phones = sum(len(decoder.lookup_word(word).split()) for word in words)
        if FEWEST_FRAMES * phones * HOP > len(samples):
            return f"too short: {phones} phones in {len(samples) / SAMPLE_RATE:.2f} s"
        return "the aligner did not reach the end of the text: is it what was said?"


def _listen(decoder: Any, sound: bytes) -> None:
    # Without this, what the noise removal learnt from the utterance before would change the features of this one.
    decoder.reinit_feat()
    decoder.start_utt()
    decoder.process_raw(sound, full_utt=True)
    decoder.end_utt()


def _copy(entry: Any) -> _Span:
    """A word and its phones as our own objects: PocketSphinx's are gone, and crash, when its iterator is."""
    phones = [(phone.name, phone.start, phone.duration, phone.score) for phone in entry]
    name = PAUSE if entry.name[0] in "<[" else re.sub(r"\(\d+\)$", "", entry.name)  # <sil>, [NOISE], read(2)
    return _Span(name, entry.start, [_Phone(_label(name), *numbers) for name, *numbers in phones])


@cache
def _label(name: str) -> int:
    return PHONES.index(fold(name))


def _read(spans: Sequence[_Span], beams: int) -> Aligned:
    phones = [phone for span in spans for phone in span.phones]
    spoken = [phone for phone in phones if phone.label in _SPEECH]
    score = SCORE_UNIT * sum(phone.score for phone in spoken) / sum(phone.frames for phone in spoken)
    silence = PHONES.index(SILENCE)
    phone_starts, labels = _merge([phone.start for phone in phones], [phone.label for phone in phones], silence)
    word_starts, words = _merge([span.start for span in spans], [span.name for span in spans], PAUSE)
    return Aligned(phone_starts, labels, word_starts, words, score, beams)


def _merge(frames: Sequence[int], names: Sequence[Name], pause: Name) -> tuple[list[int], list[Name]]:
    """Where each name begins, in samples, and the names; a pause after a pause is one with it."""
    kept = [
        (FIRST_EDGE + HOP * frame if place else 0, name)
        for place, (frame, name, before) in enumerate(zip(frames, names, [None, *names], strict=False))
        if name != pause or before != pause
    ]
    return [start for start, _ in kept], [name for _, name in kept]
