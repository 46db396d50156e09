"""Labels meet frames by time: a signal whose label is known at every sample, and the paper's own format."""

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cpc.data.alignment as module
from cpc.config import InputError
from cpc.data.alignment import AlignedRow, Alignment, _merge, read_cpc_phones, write_alignment
from tests.packed import content, lines

RATE, HOP = 16000, 160


def encoder_centres(frames: int) -> np.ndarray:
    """The padded encoder's frame t sees samples around 160 t + 79.5 (the facts, section 4)."""
    return (HOP * np.arange(frames) + 79.5) / RATE


def aligned(folder: Path, *rows: AlignedRow, classes: int = 41) -> Alignment:
    write_alignment(folder, "phones", rows, [f"p{label}" for label in range(classes)], "made here")
    return Alignment(folder / "labels" / "phones.parquet")


def row_of_edges(id: str, edges: list[int], labels: list[int]) -> AlignedRow:
    seconds = np.array(edges) / RATE
    return AlignedRow(id, seconds[:-1], seconds[1:], np.array(labels))


@given(st.integers(1, 3199))
def test_a_frame_has_the_label_of_the_sample_at_its_centre(change: int) -> None:
    # A signal whose value is its label: 0 before sample `change`, 1 from it on. Frame t's centre, 160 t + 79.5,
    # lies within sample 160 t + 79, which lasts from 160 t + 79 to 160 t + 80.
    signal = (np.arange(3200) >= change).astype(int)
    expected = signal[HOP * np.arange(20) + 79]
    edges = np.array([0, change, 3200]) / RATE
    row = AlignedRow("a", edges[:-1], edges[1:], np.array([0, 1]))
    frames = row.frames(encoder_centres(20))
    assert frames.tolist() == expected.tolist()


@given(st.data())
def test_frames_equal_a_search_by_hand(data: st.DataObject) -> None:
    edges = sorted(data.draw(st.lists(st.integers(0, 400), min_size=2, max_size=12)))
    pairs = list(zip(edges[::2], edges[1::2], strict=False))  # with gaps between them
    row = AlignedRow("a", *np.array(pairs, float).T / RATE, np.arange(len(pairs)))
    centres = np.array(data.draw(st.lists(st.integers(0, 400), max_size=10)), float) / RATE
    by_hand = [
        next((place for place, (onset, offset) in enumerate(pairs) if onset <= centre * RATE < offset), -1)
        for centre in centres
    ]
    assert row.frames(centres).tolist() == by_hand


def test_the_papers_labels_reach_the_encoder_one_frame_later(tmp_path: Path) -> None:
    # Label j is centred at 160 j + 200 and covers 160 j + 120 to 160 j + 280. Frame t at 160 t + 79.5 is inside for
    # j = t − 1. Neighbours all differ, so that a shift by one frame changes every single label.
    samples = 16000
    labels = [place % 41 for place in range(1 + (samples - 400) // HOP)]
    (tmp_path / "phones.txt").write_text("a " + " ".join(map(str, labels)))
    row = next(read_cpc_phones(tmp_path / "phones.txt"))
    row.offsets[-1] = samples / RATE
    frames = aligned(tmp_path, row).frames("a", encoder_centres(samples // HOP))
    assert frames[1:-1].tolist() == labels
    assert frames[0] == labels[0]  # before label 0's own time: the first interval begins at 0
    assert frames[-1] == labels[-1]  # after the last label: extended to the end of the audio


@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.integers(80, 400))
def test_at_their_own_centres_labels_come_back(labels: list[int], first_centre: int) -> None:
    row = _merge("a", np.array(labels), first_centre, HOP, RATE)
    centres = (HOP * np.arange(len(labels)) + first_centre) / RATE
    assert row.frames(centres).tolist() == labels
    assert row.onsets[0] == 0
    assert np.array_equal(row.onsets[1:], row.offsets[:-1])
    assert np.all(np.diff(row.labels) != 0)


def test_reading_takes_gzip_and_refuses_words(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.txt.gz", "wt") as file:
        file.write("x 0 0 5\n\ny 7")
    rows = list(read_cpc_phones(tmp_path / "a.txt.gz"))
    assert [(row.id, row.labels.tolist()) for row in rows] == [("x", [0, 5]), ("y", [7])]
    (tmp_path / "b.txt").write_text("x 0 0\ny 0 AA\n")
    with pytest.raises(InputError, match=r"b\.txt, line 2 \(y\)"):
        list(read_cpc_phones(tmp_path / "b.txt"))


def test_written_alignments_come_back_sorted(tmp_path: Path) -> None:
    rows = [row_of_edges("b", [0, 100, 250], [1, 2]), row_of_edges("a", [10, 20], [3]), row_of_edges("c", [0], [])]
    alignment = aligned(tmp_path, *rows)
    assert len(alignment) == 3
    assert alignment.inventory[3] == "p3"
    assert alignment.source == "made here"
    for row in rows:
        read = alignment.intervals(row.id)
        assert all(np.array_equal(ours, theirs) for ours, theirs in zip(read[1:], row[1:], strict=True))
    assert alignment.frames("c", encoder_centres(3)).tolist() == [-1, -1, -1]
    assert "b" in alignment
    assert "z" not in alignment
    with pytest.raises(InputError, match="id=z: has no labels"):
        alignment.frames("z", encoder_centres(3))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row_of_edges("a", [0, 10], [0]), row_of_edges("a", [0, 10], [0])], "labels twice"),
        ([row_of_edges("a", [0, 10], [41])], r"0\.\.40"),
        ([row_of_edges("a", [0, 10], [-1])], r"0\.\.40"),
        ([row_of_edges("a", [0, 20, 10], [0, 1])], "overlap"),
        ([row_of_edges("a", [0, 10, 20], [0])], "equally many"),
    ],
)
def test_what_makes_no_sense_is_not_written(tmp_path: Path, rows: list[AlignedRow], message: str) -> None:
    with pytest.raises(InputError, match=message):
        aligned(tmp_path, *rows)
    assert not list((tmp_path / "labels").iterdir())


def many(count: int) -> list[AlignedRow]:
    """Utterances u000, u001, … of 0, 1, 2, 3, 0, … intervals, each its own numbers."""
    return [
        row_of_edges(f"u{i:03d}", [i + 100 * k for k in range(i % 4 + 1)], [i % 41] * (i % 4)) for i in range(count)
    ]


def same(one: AlignedRow, other: AlignedRow) -> bool:
    return one.id == other.id and all(np.array_equal(a, b) for a, b in zip(one[1:], other[1:], strict=True))


@pytest.mark.parametrize("count", [0, 1, 8, 23])
def test_groups_of_utterances_read_as_if_there_were_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(module, "GROUP", 4)
    monkeypatch.setattr(module, "MOST_GROUPS", 2)
    rows = many(count)
    alignment = aligned(tmp_path, *rows)
    assert len(alignment._files[0].starts) - 1 == -(-count // 4)
    assert all(same(read, row) for read, row in zip(alignment, rows, strict=True))
    assert all(same(alignment.intervals(row.id), row) for row in rows[::-1] + rows)
    assert alignment.ids.to_pylist() == [row.id for row in rows]
    assert sum(len(group.labels) for group in alignment.groups()) == sum(len(row.labels) for row in rows)
    assert alignment._files[0].group.cache_info().currsize <= 2


def test_the_order_of_rows_does_not_change_a_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP", 4)
    rows = many(11)
    for name, order in (("sorted", rows), ("mixed", [*rows[::-2], *rows[-2::-2]])):
        aligned(tmp_path / name, *order)
    one, other = (content(tmp_path / name) for name in ("sorted", "mixed"))
    assert one == other


def test_rows_may_stream(tmp_path: Path) -> None:
    assert write_alignment(tmp_path, "phones", iter(many(9)), ["p"] * 41, "a generator") == 9


def test_provenance_is_kept_beside_the_inventory(tmp_path: Path) -> None:
    provenance = {"tool": "hand", "version": 2, "sha256": "0f"}
    write_alignment(tmp_path, "phones", many(3), ["p"] * 41, "made here", provenance)
    path = tmp_path / "labels" / "phones.parquet"
    assert Alignment(path).provenance == provenance
    info = json.loads(path.with_suffix(".json").read_text())
    assert info["provenance"] == provenance
    assert info["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_alignments_of_before_provenance_still_open(tmp_path: Path) -> None:
    aligned(tmp_path, *many(3))
    path = tmp_path / "labels" / "phones.json"
    info = json.loads(path.read_text())
    del info["provenance"]
    path.write_text(json.dumps(info))
    assert Alignment(path.with_suffix(".parquet")).provenance == {}


def test_a_vocabulary_beyond_int16_keeps_its_numbers(tmp_path: Path) -> None:
    row = row_of_edges("a", [0, 10, 20], [40_000, 1])
    assert aligned(tmp_path, row, classes=40_001).intervals("a").labels.tolist() == [40_000, 1]


def broken_off() -> Iterator[AlignedRow]:
    yield from many(5)
    raise KeyboardInterrupt


@pytest.mark.parametrize("rows", [many(5) + many(1), broken_off()], ids=["refused", "interrupted"])
def test_what_was_there_stays_as_it_was(tmp_path: Path, rows: Iterable[AlignedRow]) -> None:
    aligned(tmp_path, *many(3))
    before = content(tmp_path)
    with pytest.raises((InputError, KeyboardInterrupt)):
        write_alignment(tmp_path, "phones", rows, ["other"] * 41, "later")
    assert content(tmp_path) == before


@pytest.mark.parametrize("kill_at", ["parquet", "json"])
def test_killed_between_the_two_files_there_are_no_labels_rather_than_wrong_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill_at: str
) -> None:
    aligned(tmp_path, *many(3))
    old, replace = content(tmp_path), Path.replace

    def stop(self: Path, target: Path) -> Path:
        if target.suffix == f".{kill_at}":
            raise SystemExit  # nothing after the kill runs
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stop)
        with pytest.raises(SystemExit):
            write_alignment(tmp_path, "phones", many(4), ["new"] * 41, "later")
    assert not (tmp_path / "labels" / "phones.json").exists()  # by which a corpus finds its labels
    write_alignment(tmp_path, "phones", many(4), ["new"] * 41, "later")
    assert Alignment(tmp_path / "labels" / "phones.parquet").inventory == ["new"] * 41
    aligned(tmp_path, *many(3))
    assert content(tmp_path) == old


@pytest.mark.parametrize("place", [0, 1])
def test_times_are_finite(tmp_path: Path, place: int) -> None:
    row = row_of_edges("a", [0, 10], [0])
    row[1 + place][0] = np.nan
    with pytest.raises(InputError, match="not finite"):
        aligned(tmp_path, row)


def test_a_file_that_cannot_be_read_is_said_with_the_place(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.txt: cannot be read after line 0: No such file"):
        list(read_cpc_phones(tmp_path / "absent.txt"))
    (tmp_path / "bytes.txt").write_bytes(b"a 0 0\nb \xff\xfe\n")
    with pytest.raises(InputError, match=r"bytes\.txt: cannot be read"):
        list(read_cpc_phones(tmp_path / "bytes.txt"))
    whole = gzip.compress(lines(f"u{i} " + "0 1 " * 500 for i in range(200)).encode())
    for name, broken in (("cut.gz", whole[: len(whole) // 2]), ("text.gz", b"a 0 0\n")):
        (tmp_path / name).write_bytes(broken)
        with pytest.raises(InputError, match=rf"{name}: cannot be read"):
            list(read_cpc_phones(tmp_path / name))
    (tmp_path / "long.txt").write_text("a 99999999999999999999999\n")
    with pytest.raises(InputError, match=r"line 1 \(a\): labels must be whole numbers"):
        list(read_cpc_phones(tmp_path / "long.txt"))
