"""ARPAbet: the 41 classes of forced alignment, and what other tools call them."""

from __future__ import annotations

import re

from cpc.config import InputError

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
