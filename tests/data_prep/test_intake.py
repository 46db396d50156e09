"""Labels that do not fit the audio: counted where they are few, refused where they are many, nothing lost."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from cpc.config import InputError
from cpc.data.alignment import AlignedRow
from cpc.data.corpus import Corpus
from data_prep.label_files import Labels, Unread, check_scheme, take
from tests.packed import content, make_corpus, refusal

IDS = [f"a-1-{place:03d}" for place in range(200)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return make_corpus(tmp_path_factory.mktemp("intake"), dict.fromkeys(IDS, 0.2))


def row(id: str, end: float = 0.2) -> AlignedRow:
    return AlignedRow(id, np.array([0.0, 0.1]), np.array([0.1, end]), np.array([1, 0]))


def labels(rows: Iterable[AlignedRow | Unread], early: float = 0.05, unknown: Sequence[str] = ()) -> Labels:
    return Labels("tried", rows, ["x", "y"], "made here", {"a": 1}, "somewhere", early, unknown=list(unknown))


def taken(corpus: Corpus, rows: Iterable[AlignedRow | Unread], partial: bool = False) -> int:
    return take(corpus, labels(rows), partial=partial)


@pytest.fixture(autouse=True)
def clean(corpus: Corpus) -> Iterator[None]:
    """Each test begins with the labels `tried` of one utterance."""
    taken(corpus, [row(IDS[7])])
    yield


def test_what_fits_is_written_with_its_provenance(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    assert taken(corpus, (row(id) for id in IDS)) == 200
    alignment = corpus.labels("tried")
    assert (len(alignment), alignment.inventory, alignment.provenance) == (200, ["x", "y"], {"a": 1})
    assert "200 of 200 utterances labelled, 0 unknown ids skipped, 2 classes" in capsys.readouterr().out


@pytest.mark.parametrize(("end", "fits"), [(0.1501, True), (0.1499, False), (0.2499, True), (0.2501, False)])
def test_fifty_milliseconds_are_the_bound(corpus: Corpus, end: float, fits: bool) -> None:
    assert taken(corpus, [row(IDS[0]), row(IDS[1], end)]) == 1 + fits
    if fits:
        assert corpus.labels("tried").intervals(IDS[1]).offsets.tolist() == [0.1, 0.2]  # to the end of the audio


def test_labels_may_be_allowed_to_end_early(corpus: Corpus) -> None:
    short = AlignedRow(IDS[1], np.array([0.0]), np.array([0.05]), np.array([1]))
    assert take(corpus, labels([row(IDS[0]), short], early=0.16)) == 2
    assert corpus.labels("tried").intervals(IDS[1]).offsets.tolist() == [0.2]
    assert take(corpus, labels([row(IDS[0]), short], early=0.14)) == 1
    late = row(IDS[1], 0.26)  # late is another matter
    assert take(corpus, labels([row(IDS[0]), late], early=0.16)) == 1


def test_intervals_beyond_the_audio_are_cut_off(corpus: Corpus) -> None:
    long = AlignedRow(IDS[0], np.array([0.0, 0.19, 0.21]), np.array([0.19, 0.21, 0.24]), np.array([1, 0, 1]))
    taken(corpus, [long])
    held = corpus.labels("tried").intervals(IDS[0])
    assert (held.offsets.tolist(), held.labels.tolist()) == ([0.19, 0.2], [1, 0])


@pytest.mark.parametrize(("end", "fits"), [(0.16, True), (0.24, True), (0.14, False), (0.26, False)])
def test_labels_may_say_nothing_of_the_end(corpus: Corpus, end: float, fits: bool) -> None:
    short = AlignedRow(IDS[1], np.array([0.0]), np.array([0.05]), np.array([1]))
    given = labels([row(IDS[0]), short])
    given.ends = {IDS[1]: end}
    assert take(corpus, given) == 1 + fits
    if fits:
        assert corpus.labels("tried").intervals(IDS[1]).offsets.tolist() == [0.05]


def test_up_to_one_in_a_hundred_may_misfit(corpus: Corpus, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(id, 0.9) if place in (3, 4) else row(id) for place, id in enumerate(IDS)]
    assert taken(corpus, rows) == 198
    output = capsys.readouterr().out
    assert "refused the labels of 2 utterances" in output
    assert "a-1-003: labels 0.900 s, audio 0.200 s; a-1-004" in output


def test_more_misfits_refuse_all_with_counts_and_examples(corpus: Corpus) -> None:
    before = content(corpus.path)
    rows = [row(id, 0.9) if place < 3 else row(id) for place, id in enumerate(IDS)]
    message = refusal(taken, corpus, rows)
    assert message.startswith("somewhere: refused as `tried`: 3 of 200 utterances do not fit their audio, for example")
    assert "a-1-000: labels 0.900 s, audio 0.200 s" in message
    assert "the labels of that name stay as they were" in message
    assert "to take the other 197 all the same give --partial" in message
    assert content(corpus.path) == before
    assert taken(corpus, rows, partial=True) == 197


def test_what_cannot_be_read_counts_as_a_misfit(corpus: Corpus) -> None:
    rows = [Unread(id, "x.phn: is empty") if place < 3 else row(id) for place, id in enumerate(IDS)]
    assert "a-1-000: x.phn: is empty; a-1-001" in refusal(taken, corpus, rows)
    assert taken(corpus, rows, partial=True) == 197
    assert taken(corpus, rows[2:]) == 197


def test_labels_of_another_corpus_are_refused(corpus: Corpus) -> None:
    message = refusal(taken, corpus, [row("z-1-1"), row("z-1-2")])
    assert "none of its 2 ids is in" in message
    assert "(unknown: z-1-1; z-1-2)" in message
    assert refusal(taken, corpus, [row("z-1-1")], partial=True)  # partial takes a part, not nothing
    ghosts = [row(f"z-1-{place}") for place in range(60)]
    mixed = refusal(taken, corpus, [*ghosts, *(row(id) for id in IDS[:50])])
    assert "only 50 of its 110 ids are in" in mixed
    assert "(unknown: z-1-0; z-1-1; z-1-2; …)" in mixed
    assert taken(corpus, [*ghosts, *(row(id) for id in IDS[:50])], partial=True) == 50


@pytest.mark.parametrize(("ghosts", "known"), [(50, 50), (1000, 100)])
def test_a_part_of_either_is_taken(corpus: Corpus, capsys: pytest.CaptureFixture[str], ghosts: int, known: int) -> None:
    # Half of the ids match, or half of the corpus (labels of all of LibriSpeech for a corpus of a part of it).
    rows = [*(row(f"z-1-{place}") for place in range(ghosts)), *(row(id) for id in IDS[:known])]
    assert taken(corpus, rows) == known
    output = capsys.readouterr().out
    assert f"{ghosts} unknown ids skipped" in output
    assert "unknown ids: z-1-0; z-1-1; z-1-2; …" in output


def test_files_that_are_known_to_be_strangers_count(corpus: Corpus) -> None:
    rows, strangers = [row(id) for id in IDS[:50]], [f"z{place}" for place in range(51)]
    with pytest.raises(InputError, match="only 50 of its 101 ids"):
        take(corpus, labels(rows, unknown=strangers))
    assert take(corpus, labels(rows, unknown=strangers[1:])) == 50


def test_nothing_that_fits_is_refused_even_in_part(corpus: Corpus) -> None:
    assert "none of the 1 utterances fits its audio, for example a-1-000" in refusal(
        taken, corpus, [row(IDS[0], 0.9)], partial=True
    )


def test_a_first_refusal_writes_nothing(tmp_path: Path) -> None:
    fresh = make_corpus(tmp_path, {"a-1-1": 0.2})
    assert "nothing was written" in refusal(taken, fresh, [row("z")])
    assert not list((fresh.path / "labels").glob("*"))


def test_schemes_stand_beside_each_other(corpus: Corpus) -> None:
    before = content(corpus.path)
    take(corpus, Labels("other", [row(IDS[0])], ["x", "y"], "made here", {}, "somewhere"))
    after = content(corpus.path)
    assert set(after) - set(before) == {"labels/other.json", "labels/other.parquet"}
    assert all(after[name] == before[name] for name in before)


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", ".x", "phones.parts"])
def test_a_scheme_is_a_plain_name(name: str) -> None:
    with pytest.raises(InputError, match="scheme="):
        check_scheme(name)
    check_scheme("phones-39_mfa")
