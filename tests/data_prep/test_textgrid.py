"""TextGrids as the Montreal Forced Aligner writes them, in each of Praat's text formats, and every way to break one."""

import json
from pathlib import Path

import numpy as np
import pytest
from praatio import textgrid
from praatio.data_classes.interval_tier import IntervalTier
from praatio.data_classes.point_tier import PointTier

from cpc.config import InputError
from cpc.data.corpus import Corpus
from data_prep.aligner import PHONES
from data_prep.textgrid import read_textgrid, take_textgrids
from tests.packed import content, make_corpus, refusal

Entries = list[tuple[float, float, str]]
WORDS: Entries = [(0.0, 0.2, ""), (0.2, 0.6, "the"), (0.6, 0.9, 'cat"s'), (0.9, 1.0, "")]
SOUNDS: Entries = [
    (0.0, 0.2, ""),
    (0.2, 0.3, "DH"),
    (0.3, 0.6, "AH0"),
    (0.6, 0.7, "spn"),
    (0.7, 0.9, "AE1"),
    (0.9, 1.0, "sil"),
]
CODES = [PHONES.index(name) for name in ("SIL", "DH", "AH", "SPN", "AE", "SIL")]


def write(
    path: Path,
    tiers: dict[str, Entries],
    form: str = "long_textgrid",
    encoding: str = "utf-8",
    end: float = 1.0,
    blanks: bool = True,
) -> Path:
    grid = textgrid.Textgrid(0, end)
    for name, entries in tiers.items():
        grid.addTier(IntervalTier(name, entries, 0, end))
    path.parent.mkdir(parents=True, exist_ok=True)
    grid.save(str(path), form, blanks)
    path.write_text(path.read_text(encoding="utf-8"), encoding=encoding)
    return path


def mfa(path: Path, **options: str) -> Path:
    return write(path, {"words": WORDS, "phones": SOUNDS}, **options)


@pytest.mark.parametrize("form", ["long_textgrid", "short_textgrid"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
def test_every_text_format_reads_the_same(tmp_path: Path, form: str, encoding: str) -> None:
    path = mfa(tmp_path / "a.TextGrid", form=form, encoding=encoding)
    if encoding == "utf-16-le":
        path.write_bytes(b"\xff\xfe" + path.read_bytes())  # Praat writes a byte order mark
    grid = read_textgrid(path)
    assert grid.phones.edges.tolist() == [0.0, 0.2, 0.3, 0.6, 0.7, 0.9, 1.0]
    assert [PHONES.index(label) for label in grid.phones.labels] == CODES
    assert grid.words is not None
    assert grid.words.edges.tolist() == [0.0, 0.2, 0.6, 0.9, 1.0]
    assert grid.words.labels == ("<eps>", "the", 'cat"s', "<eps>")


def test_time_without_an_interval_is_unlabelled(tmp_path: Path) -> None:
    text = mfa(tmp_path / "a.TextGrid", form="short_textgrid").read_text()
    assert text.count('0.2\n0.3\n"DH"\n') == 1
    (tmp_path / "b.TextGrid").write_text(text.replace('0.2\n0.3\n"DH"\n', "").replace('\n0\n0.2\n""', ""))
    phones = read_textgrid(tmp_path / "b.TextGrid").phones
    assert phones.edges.tolist() == [0.0, 0.3, 0.6, 0.7, 0.9, 1.0]
    assert phones.labels == (None, "AH", "SPN", "AE", "SIL")


@pytest.mark.parametrize("form", ["long_textgrid", "short_textgrid"])
@pytest.mark.parametrize("end", [1.005, 1.03, 1.5])
def test_a_tier_may_end_before_its_file(tmp_path: Path, form: str, end: float) -> None:
    path = write(tmp_path / "a.TextGrid", {"words": WORDS, "phones": SOUNDS}, form=form, end=end, blanks=False)
    assert path.read_text().count('"sil"') == 1
    grid = read_textgrid(path)
    if end == 1.005:  # a time that was rounded
        assert grid.phones.edges.tolist() == [0.0, 0.2, 0.3, 0.6, 0.7, 0.9, end]
        assert grid.phones.labels == ("SIL", "DH", "AH", "SPN", "AE", "SIL")
    else:
        assert grid.phones.edges.tolist() == [0.0, 0.2, 0.3, 0.6, 0.7, 0.9, 1.0, end]
        assert grid.phones.labels == ("SIL", "DH", "AH", "SPN", "AE", "SIL", None)
        assert grid.words is not None
        assert grid.words.labels == ("<eps>", "the", 'cat"s', "<eps>", None)


def test_an_empty_tier_says_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.TextGrid", {"phones": []}, blanks=False)
    assert read_textgrid(path).phones.edges.tolist() == [0.0, 1.0]
    assert read_textgrid(path).phones.labels == (None,)


def test_two_speakers_leave_unlabelled_what_neither_has_an_interval_for(tmp_path: Path) -> None:
    first = [(0.1, 0.4, "AH0"), (0.4, 0.5, "")]
    tiers = {"ann - phones": first, "bob - phones": [(0.45, 0.6, ""), (0.8, 0.9, "OW1")]}
    phones = read_textgrid(write(tmp_path / "a.TextGrid", tiers, blanks=False)).phones
    assert phones.edges.tolist() == [0.0, 0.1, 0.4, 0.5, 0.6, 0.8, 0.9, 1.0]
    assert phones.labels == (None, "AH", "SIL", "SIL", None, "OW", None)


def overlapping(path: Path, start: float, stop: float = 1.0) -> Path:
    """AH until 0.5 s, and OW from `start` to `stop`."""
    text = write(path, {"phones": [(0.0, 0.5, "AH"), (0.5, 1.0, "OW")]}, form="short_textgrid").read_text()
    path.write_text(text.replace('0.5\n1\n"OW"', f'{start}\n{stop}\n"OW"'))
    assert f'{start}\n{stop}\n"OW"' in path.read_text()
    return path


@pytest.mark.parametrize("start", [0.49, 0.45])
def test_an_overlap_up_to_the_tolerance_is_cut_at_its_middle(tmp_path: Path, start: float) -> None:
    phones = read_textgrid(overlapping(tmp_path / "a.TextGrid", start)).phones
    assert phones.edges.tolist() == [0.0, (0.5 + start) / 2, 1.0]
    assert phones.labels == ("AH", "OW")


def test_more_overlap_names_both_intervals(tmp_path: Path) -> None:
    both = r"two intervals overlap ('AH' until 0.500 s and 'OW' from 0.449 s)"
    assert both in refusal(read_textgrid, overlapping(tmp_path / "a.TextGrid", 0.449))
    inside = overlapping(tmp_path / "a.TextGrid", 0.48, 0.49)  # the middle is its end: nothing would be left of it
    assert "two intervals overlap ('AH' until 0.500 s and 'OW' from 0.480 s)" in refusal(read_textgrid, inside)


@pytest.mark.parametrize("form", ["long_textgrid", "short_textgrid"])
@pytest.mark.parametrize("end", [1.0, 1.5])
def test_a_file_that_is_cut_anywhere_is_whole_or_refused(tmp_path: Path, form: str, end: float) -> None:
    path = write(tmp_path / "a.TextGrid", {"words": WORDS, "phones": SOUNDS}, form=form, end=end, blanks=False)
    whole, text = read_textgrid(path), path.read_text()
    for length in range(len(text)):
        path.write_text(text[:length])
        try:
            grid = read_textgrid(path)
        except InputError as error:
            assert str(error).startswith(f"{path}: ")
            assert length < len(text.rstrip())
        else:
            assert length >= len(text.rstrip()), text[:length]
            assert (grid.phones.edges.tolist(), grid.phones.labels) == (
                whole.phones.edges.tolist(),
                whole.phones.labels,
            )
            assert grid.words is not None and whole.words is not None
            assert grid.words.labels == whole.words.labels


def test_one_speakers_tiers_and_another_ones(tmp_path: Path) -> None:
    first, second = [(0.0, 0.4, "AH0"), (0.4, 1.0, "")], [(0.0, 0.6, ""), (0.6, 1.0, "OW1")]
    both = {"ann - words": [(0.0, 1.0, "uh")], "ann - phones": first, "bob - phones": second}
    grid = read_textgrid(write(tmp_path / "a.TextGrid", both))
    assert grid.phones.edges.tolist() == [0.0, 0.4, 0.6, 1.0]
    assert grid.phones.labels == ("AH", "SIL", "OW")
    assert grid.words is not None
    assert grid.words.labels == ("uh",)
    at_once = {"ann - phones": [(0.0, 0.7, "AH0"), (0.7, 1.0, "")], "bob - phones": second}
    with pytest.raises(
        InputError, match=r"b\.TextGrid: two speakers at once \('AH0' until 0\.700 s and 'OW1' from 0\.600"
    ):
        read_textgrid(write(tmp_path / "b.TextGrid", at_once))


def test_other_phones_stay_as_they_are_where_that_is_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.TextGrid", {"phones": [(0.0, 0.5, "tʰ"), (0.5, 0.8, "ə"), (0.8, 1.0, "")]})
    assert read_textgrid(path, "as-is").phones.labels == ("tʰ", "ə", "sil")
    with pytest.raises(InputError, match=r"phone 'tʰ' is no ARPAbet phone; .*--phone-set as-is"):
        read_textgrid(path)


def break_(text: str, how: str) -> str:
    if how == "cut in an interval":
        return text[: text.rindex("xmax")]
    if how == "cut between intervals":
        return text[: text.rindex("intervals [")]
    if how == "no number":
        return text.replace("0.3", "0..3")
    if how == "empty":
        return ""
    return {"other text": "hello\nthere\n", "json": "[1, 2]", "backwards": text.replace("xmax = 0.3", "xmax = 0.1")}[
        how
    ]


BOTH = ("no number", "empty", "other text", "json")
LONG = (*BOTH, "cut in an interval", "cut between intervals", "backwards")


@pytest.mark.parametrize(
    ("form", "how"), [*(("long_textgrid", how) for how in LONG), *(("short_textgrid", how) for how in BOTH)]
)
def test_a_broken_file_is_one_line_with_its_path(tmp_path: Path, form: str, how: str) -> None:
    path = mfa(tmp_path / "a.TextGrid", form=form)
    path.write_text(break_(path.read_text(), how))
    assert refusal(read_textgrid, path).startswith(f"{path}: ")


@pytest.mark.parametrize("lines", range(1, 12))
def test_a_short_file_that_is_cut_off_is_never_half_read(tmp_path: Path, lines: int) -> None:
    path = write(tmp_path / "a.TextGrid", {"phones": SOUNDS}, form="short_textgrid")
    path.write_text("\n".join(path.read_text().splitlines()[:-lines]) + "\n")
    assert refusal(read_textgrid, path).startswith(f"{path}: ")


def test_bytes_are_no_textgrid(tmp_path: Path) -> None:
    (tmp_path / "a.TextGrid").write_bytes(bytes(range(256)) * 3)
    assert "is no TextGrid that can be read" in refusal(read_textgrid, tmp_path / "a.TextGrid")


def test_a_tier_of_phones_is_needed_and_of_intervals(tmp_path: Path) -> None:
    path = write(tmp_path / "a.TextGrid", {"words": WORDS, "telephones": SOUNDS})
    assert "has no interval tier `phones` or `SPEAKER - phones` (its tiers: words, telephones)" in refusal(
        read_textgrid, path
    )
    grid = textgrid.Textgrid(0, 1)
    grid.addTier(PointTier("phones", [(0.5, "AH")], 0, 1))
    grid.save(str(path), "long_textgrid", True)
    assert "has no interval tier `phones`" in refusal(read_textgrid, path)


# A folder of them becomes two schemes.

IDS = ("14-200-0000", "14-200-0001", "22-7-0000")


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return make_corpus(tmp_path, dict.fromkeys(IDS, 1.0))


@pytest.fixture
def grids(tmp_path: Path) -> Path:
    for number, id in enumerate(IDS):
        form = ("long_textgrid", "short_textgrid")[number % 2]
        mfa(tmp_path / "grids" / id.split("-")[0] / f"{id}.TextGrid", form=form)
    return tmp_path / "grids"


def test_a_folder_becomes_phones_and_words(corpus: Corpus, grids: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mfa(grids / "99" / "99-1-0000.TextGrid")
    take_textgrids(corpus, grids)
    phones, words = corpus.labels("phones"), corpus.labels("words")
    assert phones.inventory == list(PHONES)
    assert words.inventory == ["<eps>", 'cat"s', "the"]
    for id in IDS:
        assert phones.intervals(id).labels.tolist() == CODES
        assert words.intervals(id).labels.tolist() == [0, 2, 1, 0]
        assert phones.frames(id, np.array([0.25, 0.65, 0.95])).tolist() == [CODES[1], CODES[3], CODES[5]]
    assert phones.provenance["kind"] == "textgrid"
    assert phones.provenance["reader"].startswith("praatio ")
    assert phones.provenance["files"] == 3
    output = capsys.readouterr().out
    assert "4 TextGrids" in output
    assert "phones: 3 of 3 utterances labelled, 1 unknown ids skipped, 41 classes" in output
    assert "unknown ids: 99-1-0000" in output


def test_what_is_unlabelled_stays_so_to_the_end_of_the_audio(corpus: Corpus, grids: Path) -> None:
    early = [entry for entry in SOUNDS if entry[1] <= 0.7]
    write(grids / "14" / f"{IDS[0]}.TextGrid", {"words": WORDS, "phones": early}, blanks=False)
    take_textgrids(corpus, grids)
    row = corpus.labels("phones").intervals(IDS[0])
    assert (row.offsets.tolist(), row.labels.tolist()) == ([0.2, 0.3, 0.6, 0.7], CODES[:4])
    assert row.frames(np.array([0.65, 0.75, 0.99])).tolist() == [CODES[3], -1, -1]
    assert corpus.labels("words").intervals(IDS[0]).offsets.tolist() == [0.2, 0.6, 0.9, 1.0]


def test_the_checksum_follows_the_files_not_the_folder(corpus: Corpus, grids: Path) -> None:
    def checksum(folder: Path) -> str:
        take_textgrids(corpus, folder)
        return str(corpus.labels().provenance["sha256"])

    first = checksum(grids)
    moved = grids.rename(grids.with_name("moved"))
    assert checksum(moved) == first
    mfa(moved / "14" / f"{IDS[0]}.TextGrid", form="short_textgrid")
    assert checksum(moved) != first


def test_another_scheme_stands_beside(corpus: Corpus, grids: Path) -> None:
    take_textgrids(corpus, grids)
    before = content(corpus.path)
    take_textgrids(corpus, grids, "mfa", phone_set="as-is")
    names = {name.removesuffix(".json") for name in set(content(corpus.path)) - set(before) if name.endswith(".json")}
    assert names == {"labels/mfa", "labels/mfa_words"}
    assert corpus.labels("mfa").inventory == ["AE1", "AH0", "DH", "sil", "spn"]
    assert all(content(corpus.path)[name] == before[name] for name in before)


def test_without_words_there_is_no_such_scheme(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for id in IDS:
        write(tmp_path / "grids" / f"{id}.TextGrid", {"phones": SOUNDS})
    take_textgrids(corpus, tmp_path / "grids")
    assert len(corpus.labels("phones")) == 3
    with pytest.raises(InputError, match="labels=words"):
        corpus.labels("words")
    assert "3 TextGrids have no tier words" in capsys.readouterr().out


def test_some_without_words_leave_the_others_theirs(corpus: Corpus, grids: Path) -> None:
    write(grids / "22" / "22-7-0000.TextGrid", {"phones": SOUNDS})
    take_textgrids(corpus, grids)
    assert corpus.labels("words").ids.to_pylist() == list(IDS[:2])


def test_one_broken_file_is_left_out_with_its_reason(
    corpus: Corpus, grids: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (grids / "22" / "22-7-0000.TextGrid").write_text("")
    take_textgrids(corpus, grids)
    assert corpus.labels("phones").ids.to_pylist() == list(IDS[:2])
    assert corpus.labels("words").ids.to_pylist() == list(IDS[:2])
    assert "22-7-0000: 22-7-0000.TextGrid: is no TextGrid that can be read" in capsys.readouterr().out


def test_grids_of_other_audio_are_refused_and_nothing_is_lost(corpus: Corpus, grids: Path, tmp_path: Path) -> None:
    take_textgrids(corpus, grids)
    before = content(corpus.path)
    for id in IDS[:2]:
        mfa(grids / "14" / f"{id}.TextGrid")
        write(grids / "14" / f"{id}.TextGrid", {"phones": [(0.0, 2.0, "AH0")]}, end=2.0)
    message = refusal(take_textgrids, corpus, grids)
    assert "2 of 3 utterances do not fit" in message
    assert "14-200-0000: labels 2.000 s, audio 1.000 s" in message
    other = make_corpus(tmp_path, {"5-5-5": 1.0}, "other")
    assert "none of its 3 ids is in" in refusal(take_textgrids, other, grids)
    assert content(corpus.path) == before
    assert not (other.path / "labels").exists() or not list((other.path / "labels").iterdir())


def test_a_whole_folder_of_other_phones_is_refused_with_the_remedy(corpus: Corpus, tmp_path: Path) -> None:
    for id in IDS:
        write(tmp_path / "ipa" / f"{id}.TextGrid", {"phones": [(0.0, 1.0, "ɹ")]})
    assert "phone 'ɹ' is no ARPAbet phone; for MFA's other dictionaries give --phone-set as-is" in refusal(
        take_textgrids, corpus, tmp_path / "ipa"
    )
    take_textgrids(corpus, tmp_path / "ipa", phone_set="as-is")
    assert json.loads((corpus.path / "labels" / "phones.json").read_text())["inventory"] == ["ɹ"]
