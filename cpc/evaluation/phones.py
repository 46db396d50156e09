"""Phones by manner of articulation: the order in which a table or a picture of phones is read most easily."""

from collections.abc import Sequence
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
    "silence": "SIL SPN PAU EPI H# BCL DCL GCL PCL TCL KCL",
}
OTHER = "other"


class Manner(NamedTuple):
    """A group of phones: its name and the places of its members in the inventory."""

    name: str
    members: tuple[int, ...]


def by_manner(inventory: Sequence[str], without: Sequence[str] = ()) -> list[Manner]:
    """An inventory in groups of the same manner, in a phonetic order; what is no known phone is `other`, at the end.

    Stress digits and letter case do not matter. Groups named in `without` are left out, and so are empty ones.
    """
    plain = [name.strip().upper().rstrip("012") for name in inventory]
    known = {phone: (manner, place) for manner, phones in MANNERS.items() for place, phone in enumerate(phones.split())}
    found: dict[str, list[tuple[int, int]]] = {name: [] for name in (*MANNERS, OTHER)}
    for number, name in enumerate(plain):
        manner, place = known.get(name, (OTHER, number))
        found[manner].append((place, number))
    return [
        Manner(name, tuple(number for _, number in sorted(members)))
        for name, members in found.items()
        if members and name not in without
    ]
