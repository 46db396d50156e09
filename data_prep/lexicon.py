"""Pronunciations of the words of a transcript: PocketSphinx's dictionary, and eSpeak NG for what it does not hold.

PocketSphinx's wheel carries CMUdict: 126,052 words with their alternative pronunciations. A word that it lacks is
spoken by eSpeak NG (voice en-us), which the embedded corpus needs anyway, and its phones are folded to ARPAbet.
Of 1,000 words hidden from it (`python -m benchmarks.alignment`) it got 10.2% of the phones wrong and 60.4% of the
words right in every phone.

What else was weighed: gruut 2.4 by its model for unknown words, on the same 1,000: 14.1% and 46.3%; g2p_en, which has
had no release since 2019 and does not start without files that nltk downloads; phonemizer, which calls eSpeak NG.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from cpc.config import InputError

from . import espeak

VOICE = espeak.Voice("en-us")

# The phones of `espeak.INVENTORY` that ARPAbet writes otherwise, chosen on 3,000 words of the dictionary.
ARPABET = {
    name: phones
    for name, _, phones in (
        line.strip().partition(" ")
        for line in """
        AAR AA R
        AOR AO R
        AWR AW ER
        AX  AH
        AXR ER
        AYR AY ER
        DX  T
        EHR EH R
        EL  AH L
        EN  AH N
        IHR IH R
        OH  AA
        Q   T
        SIL
        UHR UH R
        WH  W
        X   K
    """.strip().splitlines()
    )
}
# Mnemonics for which the class of the embedded corpus, made for all dialects, is too coarse (the vowels of
# "longitude", "Segovia", "lion"), and those of names that it does not hold ("Utrecht", "Llanelli", "croissant").
_MNEMONICS = {"O2": "AO", "i@": "IY AH", "aI@": "AY AH", "C": "K", "l#": "L", "A~": "AA", "O~": "AO"}
_STRESS = "'%,="

_READ_AS = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "`": "'", "‐": "-", "‑": "-", "&": " and ", "%": " percent "})
_MARKER = r"<[^<>]*>|\[[^\[\]]*\]|\{[^{}]*\}"  # of what no word says: <unk>, [noise], {laughter}
_NUMBER = r"[0-9]+(?:[.,:][0-9]+)+"
# A symbol stays in its word, which then cannot be read: better than words that were spoken and are not in the text.
_WORD = re.compile(rf"{_MARKER}|{_NUMBER}|(?:[^\W_]|['$£€¥+=<>~^|@#°⁄-])+")
_READABLE = re.compile(r"[0-9'.,:-]|LATIN .*")
_VOICELESS, _SIBILANTS = ("P", "T", "K", "F", "TH"), ("S", "Z", "SH", "ZH", "CH", "JH")


@cache
def dictionary() -> dict[str, str]:
    """PocketSphinx's dictionary: every word, in lower case, with the first of its pronunciations."""
    words: dict[str, str] = {}
    with (model_folder() / "cmudict-en-us.dict").open(encoding="utf-8") as lines:
        for line in lines:
            word, _, phones = line.strip().partition(" ")
            words.setdefault(re.sub(r"\(\d+\)$", "", word), phones)
    return words


def model_folder() -> Path:
    """PocketSphinx's en-us model. Raises InputError if PocketSphinx is not there or came without it."""
    try:
        from pocketsphinx import get_model_path
    except ImportError as error:
        raise InputError(f"alignment: needs PocketSphinx ({error}); pip install pocketsphinx") from error
    folder = Path(get_model_path("en-us"))
    if not (folder / "cmudict-en-us.dict").is_file():
        remedy = "unset POCKETSPHINX_PATH and install its wheel: pip install --force-reinstall pocketsphinx"
        raise InputError(f"alignment: PocketSphinx's English model is not at {folder}; {remedy}")
    return folder


def split_words(text: str) -> list[str]:
    """The words of a transcript as they are looked up: lower case, without punctuation.

    A word with accents or hyphens that the dictionary does not hold is taken without them, if it holds that.
    Numbers stay as they are (eSpeak NG reads them out); symbols and markers (<unk>) stay, for `pronounce` to refuse.
    """
    tokens = _WORD.findall(unicodedata.normalize("NFKC", text).lower().translate(_READ_AS))
    return [word for token in tokens for word in _known_forms(token)]


def _known_forms(token: str) -> Iterator[str]:
    known = dictionary()
    if token in known:
        yield token
        return
    bare = token.strip("'-")
    plain = "".join(each for each in unicodedata.normalize("NFKD", bare) if not unicodedata.combining(each))
    if form := next((form for form in (bare, plain) if form in known), None):
        yield form
    elif "-" in bare:
        for part in bare.split("-"):
            yield from _known_forms(part)
    elif bare:
        yield bare


def unknown_words(texts: Iterable[str]) -> list[str]:
    """The words of all the texts that the dictionary does not hold, each once, sorted."""
    return sorted({word for text in texts for word in split_words(text)} - dictionary().keys())


def pronounce(word: str) -> str:
    """The phones of a word that is not in the dictionary, "" if it cannot be read as English.

    The possessive of a word in the dictionary is that word's pronunciation and its ending.
    """
    base = word.removesuffix("'s")
    if base != word and (phones := dictionary().get(base)):
        return f"{phones} {_plural(phones.rpartition(' ')[2])}"
    return transcribe(word)


def _plural(last: str) -> str:
    return "AH Z" if last in _SIBILANTS else "S" if last in _VOICELESS else "Z"


def transcribe(word: str) -> str:
    """The phones of a word by eSpeak NG, "" if it is not written in Latin letters and digits."""
    if not all(_READABLE.fullmatch(each) or _READABLE.match(unicodedata.name(each, "")) for each in word):
        return ""
    mnemonics = [mnemonic.strip(_STRESS) for _, mnemonic in espeak.speak(word, VOICE).events]
    return " ".join(_fold(mnemonics)) if set(mnemonics) <= espeak.PHONES.keys() | _MNEMONICS.keys() else ""


def _fold(mnemonics: Iterable[str]) -> list[str]:
    phones: list[str] = []
    for mnemonic in mnemonics:
        name = espeak.PHONES.get(mnemonic, "SIL")
        for phone in _MNEMONICS.get(mnemonic, ARPABET.get(name, name)).split():
            before = phones[-1] if phones else ""
            if phone == "Y" and before in ("IH", "IY"):  # the glide of "hideous" is no phone of its own
                phones[-1] = "IY"
            elif not (phone == "R" and before in ("R", "ER")):
                phones.append(phone)
    return phones
