"""eSpeak NG by ctypes: text in, samples and the exact time of every phone out.

The library and its voices come inside the wheel `espeakng-loader` and are loaded at run time, as a library of
its own; no code of eSpeak NG is part of this package. It is free software under the GPL, version 3 or later.

`speak` is a pure function of its arguments. eSpeak NG itself is not: it keeps the phase of its pitch flutter
and its gain control from one sentence to the next, in variables that no call resets, and seeds its random
numbers by the clock. Every call therefore works on a fresh image of the library: loaded, seeded, unloaded.
"""

from __future__ import annotations

import _ctypes
import ctypes
import sys
import threading
from collections.abc import Iterator
from typing import NamedTuple

import espeakng_loader
import numpy as np
from jaxtyping import Int16
from numpy import ndarray

SAMPLE_RATE = 22050  # Hz, eSpeak NG's own
SHORTEST_PAUSE = SAMPLE_RATE // 100  # samples (10 ms, a frame): what is silent for less is part of its phone

# One class a line: its name (ARPAbet where that has one), then the mnemonics of eSpeak NG's English dialects
# that fold into it; stress is dropped. A vowel that eSpeak NG merges with a following r is its own class: AAR
# "start", AOR "north", EHR "square", IHR "near", UHR "cure", AYR "fire", AWR "hour". AXR ends "letter", OH is
# the vowel of "lot".
_CLASSES = """
SIL _ _: _:: _! _|
AA  A: A# a2
AAR A@
AE  a aa a/
AH  V
AO  O: O
AOR O@ o@ O2 o:
AW  aU
AWR aU@
AX  @ @2 @5 @- @# a# a#2
AXR 3
AY  aI aI2
AYR aI@ aI3
EH  E E2 E#
EHR e@
EL  @L
ER  3: IR VR
EY  eI e: e#
IH  I I2 I# I2#
IHR i@ i@3
IY  i: i
OH  0 0# 02
OW  oU oU#
OY  OI
UH  U
UHR U@
UW  u:
B   b
CH  tS
D   d d#
DH  D
DX  t# t2#
EN  n-
F   f
G   g
HH  h
JH  dZ
K   k
L   l l/2 l/
M   m m-
N   n
NG  N
P   p
Q   ?
R   r r- r/
S   s
SH  S
T   t t2 t[
TH  T
V   v
W   w
WH  w#
X   x
Y   j ;
Z   z z# z/2
ZH  Z
"""
_ROWS = [line.split() for line in _CLASSES.strip().splitlines()]
INVENTORY = [name for name, *_ in _ROWS]
PHONES = {mnemonic: name for name, *mnemonics in _ROWS for mnemonic in mnemonics}
_STRESS = "'%,="
_STOPS = frozenset({"B", "CH", "D", "DX", "G", "JH", "K", "P", "Q", "T"})


class Voice(NamedTuple):
    """Who speaks and how: dialect and variant (`en-us+m3`), words a minute, pitch and its range (0 to 99)."""

    name: str
    rate: int = 170
    pitch: int = 50
    pitch_range: int = 50


class Phone(NamedTuple):
    """A phone of `INVENTORY`, from sample `start` up to sample `stop`."""

    name: str
    start: int
    stop: int


class Speech(NamedTuple):
    """Mono audio at `SAMPLE_RATE`, and the (sample, mnemonic) of each phoneme event in it."""

    samples: Int16[ndarray, " sample"]
    events: list[tuple[int, str]]


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("milliseconds", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("string", ctypes.c_char * 8),  # a union, read as a phoneme's mnemonic
    )


# Constants of eSpeak NG's C interface (speak_lib.h).
_OUTPUT_SYNCHRONOUS, _PHONEME_EVENTS, _DO_NOT_EXIT, _UTF8, _EVENT_PHONEME = 2, 1, 0x8000, 1, 7
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_BUFFER = 60_000  # ms: room for a whole sentence's audio and events
_HALF_VOLUME = 50  # the loudest voices clip at eSpeak NG's default of 100
_BLOCK, _EVENTS = ctypes.POINTER(ctypes.c_short), ctypes.POINTER(_Event)
_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, _BLOCK, ctypes.c_int, _EVENTS)
_ONE_AT_A_TIME = threading.Lock()


def speak(text: str, voice: Voice) -> Speech:
    """Synthesise `text`. The same arguments give the same bytes, in any order and in any process.

    Raises ValueError for a voice that eSpeak NG does not have, RuntimeError if the library cannot be used.
    """
    blocks: list[bytes] = []
    events: list[tuple[int, str]] = []

    def receive(block: ctypes._Pointer[ctypes.c_short], samples: int, event: ctypes._Pointer[_Event]) -> int:
        if block and samples:
            blocks.append(ctypes.string_at(block, 2 * samples))
        events.extend(_phonemes(event))
        return 0

    callback = _CALLBACK(receive)
    with _ONE_AT_A_TIME:
        library = _load()
        try:
            library.espeak_SetSynthCallback(callback)
            _choose(library, voice)
            encoded = text.encode()
            if library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8, None, None):
                raise RuntimeError(f"text={text!r}: eSpeak NG could not speak it")
        finally:
            library.espeak_Terminate()
            _unload(library)
    return Speech(np.frombuffer(b"".join(blocks), "<i2").astype(np.int16), events)


def _phonemes(event: ctypes._Pointer[_Event]) -> Iterator[tuple[int, str]]:
    for place in range(1 << 16):
        if event[place].type == 0:
            return
        if event[place].type == _EVENT_PHONEME:
            yield int(event[place].sample), event[place].string.decode()


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(str(espeakng_loader.get_library_path()))
    if library.espeak_ng_GetSampleRate():  # set by its first use: what we hold is not a fresh image
        raise RuntimeError("eSpeak NG is in use elsewhere in this process; synthesise in another one")
    data, options = str(espeakng_loader.get_data_path()), _PHONEME_EVENTS | _DO_NOT_EXIT
    if library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, _BUFFER, data.encode(), options) != SAMPLE_RATE:
        raise RuntimeError(f"eSpeak NG found no voices at {data}; it takes paths of up to 140 characters")
    library.espeak_ng_SetRandSeed(1)
    return library


def _unload(library: ctypes.CDLL) -> None:
    if sys.platform == "win32":
        _ctypes.FreeLibrary(library._handle)
    else:
        _ctypes.dlclose(library._handle)


def _choose(library: ctypes.CDLL, voice: Voice) -> None:
    if library.espeak_SetVoiceByName(voice.name.encode()):
        raise ValueError(f"voice={voice.name}: eSpeak NG has no such voice; for example en-us+m3")
    settings = {_RATE: voice.rate, _VOLUME: _HALF_VOLUME, _PITCH: voice.pitch, _RANGE: voice.pitch_range}
    for parameter, value in settings.items():
        library.espeak_SetParameter(parameter, value, 0)


def add_silence(speech: Speech, before: int, after: int) -> Speech:
    """`speech` with `before` silent samples ahead of it and `after` behind it."""
    events = [(sample + before, mnemonic) for sample, mnemonic in speech.events]
    return Speech(np.pad(speech.samples, (before, after)), events)


def segment(speech: Speech) -> list[Phone]:
    """The phones of a whole utterance, without gaps, from sample 0 to its end; SIL is silence.

    An event marks the start of a phone's sound, after any silence that leads to it (for a vowel after a nasal
    or liquid: after the transition into it). The silence before the burst of a stop or affricate is its closure
    and is counted to it; any other silence of 10 ms or more is SIL. In a voice with echo silence is never exact,
    and closures stay with the phone before: choose voices without.

    Raises ValueError for a mnemonic that `PHONES` does not map.
    """
    edges = [sample for sample, _ in speech.events] + [len(speech.samples)]
    names = [_fold(mnemonic) for _, mnemonic in speech.events]
    phones = [Phone("SIL", 0, edges[0])]
    phones += [Phone(*phone) for phone in zip(names, edges, edges[1:], strict=False)]
    lasting = [phone for phone in phones if phone.stop > phone.start]
    return _merge_silence(_cut_silence(lasting, speech.samples))


def _fold(mnemonic: str) -> str:
    plain = mnemonic.strip(_STRESS)
    if plain not in PHONES:
        raise ValueError(f"mnemonic={mnemonic!r}: is in no class of data_prep.espeak; add it to one")
    return PHONES[plain]


def _cut_silence(phones: list[Phone], samples: Int16[ndarray, " sample"]) -> Iterator[Phone]:
    """Take the silence at both ends out of every phone; what leads to a stop is the stop's."""
    sounding = np.flatnonzero(samples)
    opening = None  # where the closure of the coming stop began
    for phone, after in zip(phones, [*phones[1:], Phone("SIL", 0, 0)], strict=True):
        first, last = np.searchsorted(sounding, (phone.start, phone.stop))
        silent = first == last
        start = phone.stop if silent else int(sounding[first])
        stop = phone.stop if silent else int(sounding[last - 1]) + 1
        if phone.name in _STOPS or start - phone.start < SHORTEST_PAUSE:
            start = phone.start if opening is None else opening
        if phone.stop - stop < SHORTEST_PAUSE:
            stop = phone.stop
        opening = stop if after.name in _STOPS and phone.name != "SIL" else None
        yield Phone("SIL", phone.start, start)
        yield Phone(phone.name, start, stop)
        if opening is None:
            yield Phone("SIL", stop, phone.stop)


def _merge_silence(phones: Iterator[Phone]) -> list[Phone]:
    merged: list[Phone] = []
    for phone in phones:
        if phone.stop <= phone.start:
            continue
        if merged and merged[-1].name == phone.name == "SIL":
            merged[-1] = phone._replace(start=merged[-1].start)
        else:
            merged.append(phone)
    return merged
