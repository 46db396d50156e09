"""TIMIT's labels: 61 phones in samples, the folding of Lee and Hon, glottal stops deleted without a gap."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cpc.config import InputError
from cpc.data.alignment import AlignedRow
from cpc.data.corpus import Corpus
from data_prep.label_files import Unread
from data_prep.timit import PHONES_39, PHONES_48, PHONES_61, TO_39, TO_48, fold, read_phn, take_phn
from tests.packed import content, lines, make_corpus, refusal

PHN = ("0 1600 h#", "1600 3200 dcl", "3200 4800 d", "4800 8000 ix", "8000 9600 q", "9600 12800 ao", "12800 16000 h#")


def names(row: AlignedRow | Unread, inventory: tuple[str, ...]) -> list[str]:
    assert isinstance(row, AlignedRow)
    return [inventory[label] for label in row.labels]


def test_there_are_61_48_and_39() -> None:
    assert (len(PHONES_61), len(PHONES_48), len(PHONES_39)) == (61, 48, 39)
    assert set(PHONES_61) - set(TO_48) == set(PHONES_61) - set(TO_39) == {"q"}
    assert set(PHONES_39) < set(PHONES_48)


def test_the_folding_is_that_of_the_paper() -> None:
    # Lee and Hon 1989, Table 3, as it is usually told: groups of the 48 within which confusions do not count.
    groups = [
        ("sil", "cl", "vcl", "epi"),
        ("el", "l"),
        ("en", "n"),
        ("sh", "zh"),
        ("ao", "aa"),
        ("ih", "ix"),
        ("ah", "ax"),
    ]
    of_48 = {TO_48[phone]: TO_39[phone] for phone in TO_48}
    for group in groups:
        assert len({of_48[name] for name in group}) == 1
    grouped = {name for group in groups for name in group}
    assert all(name == other for name, other in of_48.items() if name not in grouped)
    # And of the 61 to the 48: closures, pauses and allophones.
    folded = {phone: name for phone, name in TO_48.items() if phone != name}
    assert folded == {
        **dict.fromkeys(("pcl", "tcl", "kcl"), "cl"),
        **dict.fromkeys(("bcl", "dcl", "gcl"), "vcl"),
        **dict.fromkeys(("h#", "pau"), "sil"),
        "ax-h": "ax",
        "axr": "er",
        "hv": "hh",
        "em": "m",
        "nx": "n",
        "eng": "ng",
        "ux": "uw",
    }


def test_a_48_class_never_spreads_over_two_of_the_39() -> None:
    assert all(count == 1 for count in Counter(name for name, _ in {(TO_48[p], TO_39[p]) for p in TO_48}).values())


def test_samples_become_seconds(tmp_path: Path) -> None:
    (tmp_path / "SA1.PHN").write_text(lines(PHN))
    row = read_phn(tmp_path / "SA1.PHN")
    assert row.onsets.tolist() == [0.0, 0.1, 0.2, 0.3, 0.5, 0.6, 0.8]
    assert row.offsets.tolist() == [0.1, 0.2, 0.3, 0.5, 0.6, 0.8, 1.0]
    assert names(row, PHONES_61) == ["h#", "dcl", "d", "ix", "q", "ao", "h#"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no labels"),
        ("0 100 h#\n100 x sh\n", r"line 2 \(100 x sh\): must be START END PHONE"),
        ("0 100\n", "line 1 .*must be START END PHONE"),
        ("0 100 h# b\n", "line 1 .*must be START END PHONE"),
        ("-5 100 h#\n", "line 1 .*must be START END PHONE"),
        ("0 1.5 h#\n", "line 1 .*must be START END PHONE"),
        ("0 100 h#\n\n100 200 zz\n", "line 3 .*'zz' is none of TIMIT's 61 phones"),
        ("0 100 h#\n90 200 sh\n", "line 2 .*begins before sample 100"),
        ("0 100 h#\n100 100 sh\n", "line 2 .*or is empty"),
        ("0 100 h#\n200 150 sh\n", "line 2 .*or is empty"),
        ("\xff\xfe\x00", "line 1"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.phn").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=rf"a\.phn: .*{message}"):
        read_phn(tmp_path / "a.phn")


def row_of(*phones: str, edges: list[float] | None = None) -> AlignedRow:
    marks = np.arange(len(phones) + 1.0) if edges is None else np.array(edges)
    return AlignedRow("a", marks[:-1], marks[1:].copy(), np.array([PHONES_61.index(phone) for phone in phones]))


def test_a_glottal_stop_is_shared_out_to_its_neighbours() -> None:
    folded = fold(row_of("ih", "q", "ao"), TO_39)
    assert isinstance(folded, AlignedRow)
    assert names(folded, PHONES_39) == ["ih", "aa"]
    assert folded.onsets.tolist() == [0.0, 1.5]
    assert folded.offsets.tolist() == [1.5, 3.0]


@pytest.mark.parametrize(
    ("phones", "onsets", "offsets"),
    [
        (("q", "ih"), [0.0], [2.0]),
        (("ih", "q"), [0.0], [2.0]),
        (("ih", "q", "q", "s"), [0.0, 2.0], [2.0, 4.0]),
        (("q", "ih", "q", "s", "q"), [0.0, 2.5], [2.5, 5.0]),
        (("q",), [], []),
    ],
)
def test_no_time_is_lost_at_the_ends(phones: tuple[str, ...], onsets: list[float], offsets: list[float]) -> None:
    folded = fold(row_of(*phones), TO_48)
    assert isinstance(folded, AlignedRow)
    assert (folded.onsets.tolist(), folded.offsets.tolist()) == (onsets, offsets)


def test_only_what_touches_a_glottal_stop_takes_its_time() -> None:
    row = row_of("ih", "q", "s")
    row.offsets[0] = 0.5  # a gap between ih and the glottal stop
    folded = fold(row, TO_39)
    assert isinstance(folded, AlignedRow)
    assert (folded.onsets.tolist(), folded.offsets.tolist()) == ([0.0, 1.0], [0.5, 3.0])


def test_folding_leaves_its_argument_alone() -> None:
    row = row_of("ih", "q", "s")
    fold(row, TO_39)
    assert row.offsets.tolist() == [1.0, 2.0, 3.0]
    assert fold(Unread("a", "broken"), TO_39) == Unread("a", "broken")


# A corpus in TIMIT's layout: the same sentence names in every speaker's folder.

IDS = ("TRAIN-DR1-FCJF0-SA1", "TRAIN-DR1-FCJF0-SX37", "TEST-DR2-MDPK0-SA1")


@pytest.fixture
def timit(tmp_path: Path) -> Path:
    for id in IDS:
        path = (tmp_path / "timit" / id.replace("-", "/")).with_suffix(".PHN")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lines(PHN))
    return tmp_path / "timit"


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return make_corpus(tmp_path, dict.fromkeys(IDS, 1.0))


def test_four_schemes_stand_beside_each_other(corpus: Corpus, timit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    take_phn(corpus, timit)
    schemes = {name: corpus.labels(name) for name in ("phones61", "phones48", "phones39", "phones")}
    assert [len(scheme.inventory) for scheme in schemes.values()] == [61, 48, 39, 39]
    said = {name: names(scheme.intervals(IDS[0]), tuple(scheme.inventory)) for name, scheme in schemes.items()}
    assert said["phones61"] == ["h#", "dcl", "d", "ix", "q", "ao", "h#"]
    assert said["phones48"] == ["sil", "vcl", "d", "ix", "ao", "sil"]
    assert said["phones39"] == said["phones"] == ["sil", "sil", "d", "ih", "aa", "sil"]
    labels = schemes["phones"]
    held = [labels.inventory[code] for code in labels.frames(IDS[2], np.array([0.54, 0.56, 0.999]))]
    assert held == ["ih", "aa", "sil"]  # the glottal stop from 0.5 to 0.6 s is halved
    assert labels.provenance["folding"] == "folded from 61 to 39"
    assert schemes["phones48"].provenance["sha256"] == labels.provenance["sha256"]
    assert "phones: 3 of 3 utterances labelled" in capsys.readouterr().out


def test_labels_that_end_early_last_to_the_end(timit: Path, tmp_path: Path) -> None:
    # TIMIT's documentation: the last label may end before the audio does. A quarter of a second is allowed, no more.
    corpus = make_corpus(tmp_path, dict(zip(IDS, (1.2, 1.0, 1.0), strict=True)), "longer")
    take_phn(corpus, timit)
    assert corpus.labels().intervals(IDS[0]).offsets[-1] == pytest.approx(1.2)
    too_long = make_corpus(tmp_path, dict(zip(IDS, (1.3, 1.3, 1.0), strict=True)), "too-long")
    assert "labels 1.000 s, audio 1.300 s" in refusal(take_phn, too_long, timit)


def test_a_broken_file_is_left_out_and_many_refuse_all(
    corpus: Corpus, timit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (timit / "TEST/DR2/MDPK0/SA1.PHN").write_text("0 100 h#\n50 200 sh\n")
    take_phn(corpus, timit)
    assert len(corpus.labels("phones61")) == len(corpus.labels()) == 2
    assert "TEST-DR2-MDPK0-SA1: SA1.PHN: line 2 (50 200 sh): begins before sample 100" in capsys.readouterr().out
    before = content(corpus.path)
    (timit / "TRAIN/DR1/FCJF0/SA1.PHN").write_text("nonsense")
    assert "2 of 3 utterances do not fit" in refusal(take_phn, corpus, timit)
    assert content(corpus.path) == before


def test_files_of_no_utterance_are_counted(corpus: Corpus, timit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (timit / "TRAIN/DR1/FCJF0/SI648.PHN").write_text(lines(PHN))
    take_phn(corpus, timit)
    assert "unknown ids: TRAIN/DR1/FCJF0/SI648.PHN" in capsys.readouterr().out
