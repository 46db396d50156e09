"""Phones: which labels are none (the one table of silences), and the rest by manner of articulation."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

# ARPAbet (CMUdict) with TIMIT's further symbols. Vowels go round the mouth from front to back, consonants from the lips
# to the throat, so that neighbours sound alike (Ladefoged & Johnson, A Course in Phonetics, chapter 2).
MANNERS = {
    "vowels": "IY IH IX EH AE AX AX-H AH AXR ER AA AO UH UX UW",
    "diphthongs": "EY AY OY AW OW",
    "approximants": "Y W R L EL",
    "nasals": "M EM N EN NX NG ENG",
    "plosives": "P B T D DX K G Q",
    "affricates": "CH JH",
    "fricatives": "F V TH DH S Z SH ZH HH HV",
    "closures": "BCL PCL DCL TCL GCL KCL VCL CL",
    "silence": "",  # see SILENCES
}
OTHER = "other"
# Labels that are no phones, in any case: silence, pauses, noise, laughter, words that the dictionary lacks (as the
# Montreal Forced Aligner, Kaldi, TIMIT and PocketSphinx write them). Closures belong to their stops.
SILENCES = frozenset(
    [
        "SIL",
        "SP",
        "SPN",
        "NSN",
        "PAU",
        "EPI",
        "H#",
        "#",
        "<EPS>",
        "EPS",
        "<SIL>",
        "<S>",
        "</S>",
        "[NOISE]",
        "NOISE",
        "OOV",
        "UNK",
        "<UNK>",
        "LAU",
        "LAUGHTER",
        "COUGH",
        "BREATH",
    ]
) | {""}


def silent_classes(inventory: Sequence[str], silences: Collection[str] | None = None) -> list[int]:
    """The places of labels that are no phones: those of `SILENCES`, or the ones that are named instead.

    Where classes have numbers for names, as in the CPC paper's labels, that is class 0.
    """
    if silences is not None:
        named = {name.strip().upper() for name in silences}
        return [place for place, name in enumerate(inventory) if name.strip().upper() in named]
    if list(inventory) == [str(number) for number in range(len(inventory))]:
        return [0]
    return [place for place, name in enumerate(inventory) if name.strip().upper() in SILENCES]


class Manner(NamedTuple):
    """A group of phones: its name and the places of its members in the inventory."""

    name: str
    members: tuple[int, ...]


def by_manner(inventory: Sequence[str], without: Sequence[str] = ()) -> list[Manner]:
    """An inventory in groups of the same manner, in a phonetic order; what is no known phone is `other`, at the end.

    Stress digits and letter case do not matter. Groups named in `without` are skipped, and so are empty ones.
    """
    plain, quiet = [name.strip().upper().rstrip("012") for name in inventory], set(silent_classes(inventory))
    known = {phone: (manner, place) for manner, phones in MANNERS.items() for place, phone in enumerate(phones.split())}
    found: dict[str, list[tuple[int, int]]] = {name: [] for name in (*MANNERS, OTHER)}
    for number, name in enumerate(plain):
        manner, place = ("silence", number) if number in quiet else known.get(name, (OTHER, number))
        found[manner].append((place, number))
    return [
        Manner(name, tuple(number for _, number in sorted(members)))
        for name, members in found.items()
        if members and name not in without
    ]
