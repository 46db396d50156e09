"""Items are three neighbouring phones, made from alignments or read from files that say where they are wrong."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from cpc.config import InputError
from cpc.data.alignment import AlignedRow, write_alignment
from cpc.data.corpus import Corpus
from cpc.data.pack import pack
from cpc.data.shards import Source
from cpc.evaluation.abx.items import COLUMNS, Items, corpus_items, read_items, write_items

PHONES = ["SIL", "AA", "B", "K", "spn"]
HEADER = " ".join(COLUMNS)


def corpus(folder: Path, labels: list[int], edges: list[float], speaker: str = "ann") -> Corpus:
    soundfile.write(folder / "one.wav", np.zeros(16000, np.float32) + 0.1, 16000)
    pack([Source(id="one", path=folder / "one.wav", speaker=speaker)], folder / "packed", workers=1, progress=False)
    times = np.array(edges)
    row = AlignedRow("one", times[:-1], times[1:], np.array(labels))
    write_alignment(folder / "packed", "phones", [row], PHONES, "made up")
    return Corpus.open(folder / "packed")


def rows_of(items: Items) -> list[tuple[object, ...]]:
    columns = (items.files, items.onsets, items.offsets, items.phones, items.previous, items.following, items.speakers)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_triphones_without_silence_or_noise(tmp_path: Path) -> None:
    # SIL AA B K AA spn B K: AA B K and B K AA have neither silence nor noise on any of their three places.
    made = corpus(tmp_path, [0, 1, 2, 3, 1, 4, 2, 3], [0, 0.1, 0.2, 0.25, 0.4, 0.5, 0.6, 0.7, 0.8])
    triphones = corpus_items(made, made.rows(["one"]))
    assert rows_of(triphones) == [
        ("one", 0.1, 0.4, "B", "AA", "K", "ann"),
        ("one", 0.2, 0.5, "K", "B", "AA", "ann"),
    ]
    phones = corpus_items(made, made.rows(["one"]), "phone")
    assert rows_of(phones) == [("one", 0.2, 0.25, "B", "AA", "K", "ann"), ("one", 0.25, 0.4, "K", "B", "AA", "ann")]


def test_phones_on_either_side_of_a_gap_are_no_neighbours(tmp_path: Path) -> None:
    folder = tmp_path
    made = corpus(folder, [1, 2, 3], [0.1, 0.2, 0.3, 0.4])
    row = AlignedRow("one", np.array([0.1, 0.25, 0.3]), np.array([0.2, 0.3, 0.4]), np.array([1, 2, 3]))
    write_alignment(folder / "packed", "gap", [row], PHONES, "made up")
    assert len(corpus_items(made, made.rows(["one"]))) == 1
    with pytest.raises(InputError, match="occur nowhere"):
        corpus_items(made, made.rows(["one"]), labels="gap")


def test_unknown_labels(tmp_path: Path) -> None:
    made = corpus(tmp_path, [1, 2, 3], [0.1, 0.2, 0.3, 0.4])
    with pytest.raises(InputError, match="labels=words"):
        corpus_items(made, made.rows(["one"]), labels="words")


def test_an_utterance_without_a_speaker_has_no_items(tmp_path: Path) -> None:
    """Unknown is not a speaker: two such utterances are not by the same one."""
    made = corpus(tmp_path, [1, 2, 3], [0.1, 0.2, 0.3, 0.4], speaker="")
    with pytest.raises(InputError, match="occur nowhere"):
        corpus_items(made, made.rows(["one"]))


def test_a_file_holds_what_was_written(tmp_path: Path) -> None:
    made = corpus(tmp_path, [1, 2, 3, 1], [125 / 16000, 0.2925, 1 / 3, 0.4, 0.5])
    items = corpus_items(made, made.rows(["one"]))
    write_items(tmp_path / "x.item", items)
    again = read_items(tmp_path / "x.item")
    lines = (tmp_path / "x.item").read_text().splitlines()
    assert lines[:2] == [HEADER, "one 0.0078125 0.4 B AA K ann"]
    assert rows_of(again)[0] == rows_of(items)[0]
    for one, other in ((again.onsets, items.onsets), (again.offsets, items.offsets)):
        assert np.abs(one - other).max() <= 0.5e-7


def test_names_with_spaces_cannot_be_written(tmp_path: Path) -> None:
    names = {name: np.array(["a"]) for name in ("phones", "previous", "following", "speakers")}
    items = Items(files=np.array(["my file"]), onsets=np.array([0.0]), offsets=np.array([1.0]), **names)
    with pytest.raises(InputError, match="my file"):
        write_items(tmp_path / "x.item", items)
    assert not (tmp_path / "x.item").exists()


def test_a_file_of_zerospeech_is_read(tmp_path: Path) -> None:
    line = "6295-244435-0009 0.2925 0.4725 IH L NG 6295"
    (tmp_path / "x.item").write_text(f"{HEADER}\n{line}\n\n{line}")
    assert (
        rows_of(read_items(tmp_path / "x.item")) == [("6295-244435-0009", 0.2925, 0.4725, "IH", "L", "NG", "6295")] * 2
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: must be the column names"),
        ("a 0 1 B A K s\n", "line 1: must be the column names"),
        (f"{HEADER}\n", "holds no items"),
        (f"{HEADER}\na 0 1 B A K s\na 0 1 B A K\n", "line 3: has 6 words; must be 7"),
        (f"{HEADER}\na 0 x B A K s\n", "line 2: onset=0, offset=x: must be numbers"),
        (f"{HEADER}\na 0.5 0.5 B A K s\n", "line 2: onset=0.5, offset=0.5: must be in order"),
        (f"{HEADER}\na -1 0.5 B A K s\n", "must be in order, 0 ≤ onset < offset"),
        (f"{HEADER}\na 0 nan B A K s\n", "must be in order"),
        (f"{HEADER}\na 0 inf B A K s\n", "must be in order"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.item").write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        read_items(tmp_path / "x.item")
    assert str(tmp_path / "x.item") in str(caught.value)


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_items(tmp_path / "none.item")
    (tmp_path / "x.item").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not text"):
        read_items(tmp_path / "x.item")
