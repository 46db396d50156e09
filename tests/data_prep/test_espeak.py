"""eSpeak NG's binding: pure, exact in time, and closed in its inventory."""

import hashlib
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("espeakng_loader", reason="espeakng-loader, the synthesiser, is not installed")

from data_prep import espeak
from data_prep import speakers as sentences
from data_prep.espeak import INVENTORY, PHONES, SAMPLE_RATE, Phone, Speech, Voice, add_silence, segment, speak
from data_prep.speakers import _DIALECTS

TEXTS = ("She sells sea shells.", "Seven thirsty judges measured the yellow bridge.", "A sassy fox.")
VOICES = (Voice("en-us+m6"), Voice("en+f1", rate=150, pitch=60), Voice("en-gb-scotland+Michael", pitch_range=70))


def digest(text: str, voice: Voice) -> str:
    return hashlib.sha256(speak(text, voice).samples.tobytes()).hexdigest()


def sound(speech: Speech, phone: Phone) -> np.ndarray:
    return speech.samples[phone.start : phone.stop].astype(float)


def test_speech_does_not_depend_on_what_was_spoken_before() -> None:
    pairs = [(text, voice) for text in TEXTS for voice in VOICES]
    forward = [digest(*pair) for pair in pairs]
    backward = [digest(*pair) for pair in reversed(pairs)]
    assert forward == backward[::-1]
    assert len(set(forward)) == len(pairs)


def test_another_process_speaks_the_same_bytes() -> None:
    code = f"from data_prep.espeak import *; import hashlib\ns = speak({TEXTS[1]!r}, Voice('en+f1', 150, 60))\n"
    code += "print(hashlib.sha256(s.samples.tobytes()).hexdigest())"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert there == digest(TEXTS[1], VOICES[1])


def test_phones_fill_the_utterance_without_gap_or_overlap() -> None:
    for text in TEXTS:
        speech = speak(text, VOICES[0])
        phones = segment(speech)
        assert phones[0].start == 0 and phones[-1].stop == len(speech.samples)
        assert all(a.stop == b.start for a, b in pairwise(phones))
        assert all(phone.start < phone.stop for phone in phones)


def test_the_words_come_out_as_their_phones() -> None:
    names = [phone.name for phone in segment(speak("Cheap fish.", VOICES[0])) if phone.name != "SIL"]
    assert names == ["CH", "IY", "P", "F", "IH", "SH"]


@pytest.mark.parametrize("voice", VOICES)
def test_an_s_begins_and_ends_where_its_label_does(voice: Voice) -> None:
    """/s/ changes sign far more often than the vowels around it: look for the change, compare with the labels."""
    speech = speak("A sassy sister.", voice)
    hissing = [phone for phone in segment(speech) if phone.name == "S"]
    assert len(hissing) >= 3
    for phone in hissing:
        inside = sound(speech, phone)
        crossings = np.mean(np.abs(np.diff(np.sign(inside[: SAMPLE_RATE // 50]))) > 0)
        before = speech.samples[phone.start - SAMPLE_RATE // 50 : phone.start].astype(float)
        assert crossings > 0.25  # already in the first 20 ms
        assert np.mean(np.abs(np.diff(np.sign(before))) > 0) < 0.15  # not yet in the 20 ms before


@pytest.mark.parametrize("voice", VOICES)
def test_silence_is_silent_and_vowels_are_loud(voice: Voice) -> None:
    speech = speak("The boat, a map, and the ox.", voice)
    phones = segment(speech)
    pauses = [phone for phone in phones if phone.name == "SIL" and phone.stop - phone.start > SAMPLE_RATE // 20]
    assert len(pauses) >= 2
    assert all(np.abs(sound(speech, phone)[1:-1]).mean() < 2 for phone in pauses)
    vowels = [phone for phone in phones if phone.name in {"OW", "AE", "OH", "AA"}]
    assert min(np.abs(sound(speech, phone)).mean() for phone in vowels) > 300


def test_the_closure_of_a_stop_is_part_of_the_stop() -> None:
    speech = speak("A cat.", VOICES[0])
    stop = next(phone for phone in segment(speech) if phone.name == "K")
    event = next(sample for sample, mnemonic in speech.events if mnemonic == "k")
    assert stop.start < event - SAMPLE_RATE // 50  # eSpeak NG's event marks the burst
    assert not speech.samples[stop.start : event].any()
    assert speech.samples[stop.start - 1] != 0


def test_silence_goes_to_the_stop_after_it_and_is_else_a_pause() -> None:
    gap, tone = np.zeros(SAMPLE_RATE // 50, np.int16), np.ones(SAMPLE_RATE // 50, np.int16)
    samples, step = np.concatenate([tone, gap, tone, gap, tone]), len(gap)
    events = [(0, "a"), (2 * step, "k"), (4 * step, "s")]
    found = segment(Speech(samples, events))
    edges = [("AE", 0, 1), ("K", 1, 3), ("SIL", 3, 4), ("S", 4, 5)]
    assert found == [Phone(name, start * step, stop * step) for name, start, stop in edges]


def test_silence_around_moves_every_phone_by_as_much() -> None:
    speech = speak(TEXTS[0], VOICES[0])
    inner, outer = segment(speech), segment(add_silence(speech, 1000, 500))
    assert [phone.name for phone in inner] == [phone.name for phone in outer]
    assert [phone.start + 1000 for phone in inner[1:]] == [phone.start for phone in outer[1:]]
    assert outer[-1].stop == len(speech.samples) + 1500


def test_every_word_of_the_generator_has_phones_in_every_dialect() -> None:
    words, met = sentences.vocabulary(), set()
    for dialect in _DIALECTS:
        for start in range(0, len(words), 12):
            speech = speak(" ".join(words[start : start + 12]), Voice(f"{dialect}+m6", rate=300))
            met |= {phone.name for phone in segment(speech)}
    assert met <= set(INVENTORY)
    assert set(INVENTORY) - met <= {"Q", "EN", "AWR"}  # these need sentences, or do not occur in our words


def test_the_inventory_is_closed() -> None:
    assert INVENTORY[0] == "SIL"
    assert len(INVENTORY) == len(set(INVENTORY)) and 40 <= len(INVENTORY) <= 60
    assert set(PHONES.values()) == set(INVENTORY)
    with pytest.raises(ValueError, match=r"mnemonic='q!': is in no class"):
        segment(Speech(np.ones(10, np.int16), [(0, "q!")]))


def test_an_unknown_voice_is_named() -> None:
    with pytest.raises(ValueError, match="voice=xx-nowhere: eSpeak NG has no such voice"):
        speak("Hello.", Voice("xx-nowhere"))


def test_a_voice_does_not_clip() -> None:
    loud = speak(TEXTS[1], Voice("en-us+Jacky")).samples
    assert np.mean(np.abs(loud.astype(int)) > 32000) < 1e-3
    assert espeak.SAMPLE_RATE == SAMPLE_RATE
