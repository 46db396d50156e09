"""Pronunciations: the classes of alignment, the dictionary, and words that it does not hold."""

import numpy as np
import pytest

pytest.importorskip("pocketsphinx", reason="pocketsphinx, the forced aligner, is not installed")
pytest.importorskip("espeakng_loader", reason="espeakng-loader, the synthesiser, is not installed")

from benchmarks.agreement import edits
from cpc.config import InputError
from data_prep import espeak
from data_prep.aligner import PHONES, VOWELS, fold
from data_prep.lexicon import _MNEMONICS, _fold, dictionary, pronounce, split_words, transcribe, unknown_words


def test_the_inventory_is_silence_noise_and_39_phones() -> None:
    assert len(PHONES) == len(set(PHONES)) == 2 + 39
    assert PHONES[:2] == ("SIL", "SPN")
    assert list(PHONES[2:]) == sorted(PHONES[2:])
    assert len(set(VOWELS) & set(PHONES)) == len(VOWELS) == 15


def test_folding_keeps_every_class_and_drops_stress_and_case() -> None:
    assert [fold(name) for name in PHONES] == list(PHONES)
    assert [fold(name.lower()) for name in PHONES] == list(PHONES)
    assert {fold(f"{vowel}{stress}") for vowel in VOWELS for stress in "012"} == set(VOWELS)


@pytest.mark.parametrize("name", ["", " ", "sil", "SP", "<eps>", "<sil>", "<s>", "</s>", "h#", "pau", "(SIL)"])
def test_marks_of_silence_are_one_class(name: str) -> None:
    assert fold(name) == "SIL"


@pytest.mark.parametrize("name", ["spn", "OOV", "<unk>", "[noise]", "+SPN+", "+NSN+", "nsn", "{laughter}"])
def test_marks_of_noise_are_one_class(name: str) -> None:
    assert fold(name) == "SPN"


@pytest.mark.parametrize("name", ["XX", "B1", "AH3", "AH00", "1", "<AH>", "a", "[S", "sil sil"])
def test_anything_else_is_a_mistake_that_names_it(name: str) -> None:
    with pytest.raises(InputError, match="no ARPAbet phone") as error:
        fold(name)
    assert repr(name) in str(error.value)


def test_the_dictionary_is_of_the_classes_of_alignment() -> None:
    known = dictionary()
    assert len(known) == 126_052
    assert known["hello"].split() == ["HH", "AH", "L", "OW"]
    assert {phone for phones in known.values() for phone in phones.split()} == set(PHONES[2:])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("HELLO THERE", ["hello", "there"]),
        ("“Hello,” she said--not 'loud'.", ["hello", "she", "said", "not", "loud"]),
        ("It’s the dogs' o'clock, 'tis", ["it's", "the", "dogs'", "o'clock", "'tis"]),
        ("a well-known, grue-coloured naïve", ["a", "well-known", "grue", "coloured", "naive"]),
        ("R&D is 3.5% of U.S. sales", ["r", "and", "d", "is", "3.5", "percent", "of", "u", "s", "sales"]),
        ("It cost $5 <unk> [door slams] then", ["it", "cost", "$5", "<unk>", "[door slams]", "then"]),
        (" — … -- ' ", []),
        ("", []),
    ],
)
def test_words_are_looked_up_without_case_and_punctuation(text: str, words: list[str]) -> None:
    assert split_words(text) == words


def test_unknown_words_are_told_once_and_sorted() -> None:
    assert unknown_words(["The wug saw", "the BLICKET, wug"]) == ["blicket", "wug"]


@pytest.mark.parametrize(
    ("word", "phones"),
    [
        ("wug", "W AH G"),
        ("wugs", "W AH G Z"),
        ("7", "S EH V AH N"),
        ("3rd", "TH ER D"),
        ("café", "K AE F EY"),
        ("utrecht", "Y UW T R EH K T"),
        ("northanger", "N AO R TH AE NG ER"),
    ],
)
def test_words_without_an_entry_are_spoken_by_espeak(word: str, phones: str) -> None:
    assert word not in dictionary()
    assert pronounce(word) == phones == pronounce(word)


def test_the_ending_of_a_possessive_follows_the_last_phone() -> None:
    bases = {"cat's": "S", "dog's": "Z", "judge's": "AH Z", "sea's": "Z"}
    assert {word: _possessive(word) for word in bases} == bases


def _possessive(word: str) -> str:
    """What `pronounce` adds to the word itself, which the dictionary holds."""
    whole, base = pronounce(word), dictionary()[word.removesuffix("'s")]
    assert whole.startswith(base)
    return whole.removeprefix(base).strip()


@pytest.mark.parametrize("word", ["$5", "<unk>", "[noise]", "привет", "日本", "x=1", "½€"])
def test_what_is_not_english_cannot_be_pronounced(word: str) -> None:
    assert pronounce(word) == ""


def test_every_sound_of_espeak_becomes_arpabet() -> None:
    assert {phone for mnemonic in [*espeak.PHONES, *_MNEMONICS] for phone in _fold([mnemonic])} <= set(PHONES[2:])
    assert _fold(["h", "I", ";", "@", "3", "r"]) == ["HH", "IY", "AH", "ER"]


def test_hidden_words_come_back_mostly_right() -> None:
    """`benchmarks.alignment` has the figures of 1,000 words: 10% of the phones wrong, 60% of the words all right."""
    known = dictionary()
    words = [word for word in sorted(known) if word.isalpha() and len(word) > 3]
    drawn = np.random.default_rng(0).choice(len(words), 100, replace=False).tolist()
    pairs = [(transcribe(words[place]).split(), known[words[place]].split()) for place in drawn]
    wrong = sum(edits(got, truth) for got, truth in pairs)
    assert wrong / sum(len(truth) for _, truth in pairs) < 0.15
    assert sum(got == truth for got, truth in pairs) > 50
