"""Labels meet frames by time: a signal whose label is known at every sample, and the paper's own format."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpc.config import InputError
from cpc.corpus import AlignedRow, Alignment, read_cpc_phones, write_alignment
from cpc.corpus.alignment import _merge

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


@settings(deadline=None)  # the first call imports
@given(st.integers(1, 3199))
def test_a_frame_has_the_label_of_the_sample_at_its_centre(change: int) -> None:
    # A signal whose value is its label: 0 before sample `change`, 1 from it on. Frame t's centre, 160 t + 79.5,
    # lies within sample 160 t + 79, which lasts from 160 t + 79 to 160 t + 80.
    signal = (np.arange(3200) >= change).astype(int)
    expected = signal[HOP * np.arange(20) + 79]
    edges = np.array([0, change, 3200]) / RATE
    row = AlignedRow("a", edges[:-1], edges[1:], np.array([0, 1]))
    frames = _frames(row, encoder_centres(20))
    assert frames.tolist() == expected.tolist()


def _frames(row: AlignedRow, centres: np.ndarray) -> np.ndarray:
    """`Alignment.frames` without a disk between (hypothesis runs it a hundred times)."""
    alignment = Alignment.__new__(Alignment)
    alignment._ids, alignment._bounds = pa.array([row.id]), np.array([0, len(row.labels)])
    alignment._onsets, alignment._offsets, alignment._labels = row.onsets, row.offsets, row.labels
    return alignment.frames(row.id, centres)


@settings(deadline=None)  # the first call imports
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
    assert _frames(row, centres).tolist() == by_hand


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


@settings(deadline=None)  # the first call imports
@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), st.integers(80, 400))
def test_at_their_own_centres_labels_come_back(labels: list[int], first_centre: int) -> None:
    row = _merge("a", np.array(labels), first_centre, HOP, RATE)
    centres = (HOP * np.arange(len(labels)) + first_centre) / RATE
    assert _frames(row, centres).tolist() == labels
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
    assert not (tmp_path / "labels").exists()
