"""Frames are found by the name of their file, in a corpus or in a folder, at the times that they belong to."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cpc.audio.mfcc import MFCC39
from cpc.config import InputError, validate
from cpc.data.corpus import Corpus
from cpc.evaluation.abx.items import aligned_material, corpus_banks, corpus_items, folder_bank
from cpc.evaluation.features import Layer
from cpc.models.cpc import ModelConfig, build


def save(folder: Path, name: str, frames: np.ndarray) -> None:
    path = folder / f"{name}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, frames)


def test_items_have_the_frames_of_their_phones(chords: Corpus) -> None:
    material = aligned_material(chords, "phone")
    (bank,) = corpus_banks([MFCC39()], chords, material.rows)
    starts, counts = bank.slice(material.items)
    alignment = chords.labels("phones")
    for number in range(0, len(material.items), 37):
        place = bank.places[str(material.items.files[number])]
        start = int(starts[number] - bank.table.offsets[place])
        labels = alignment.frames(str(material.items.files[number]), bank.centres(int(bank.table.counts[place])))
        own = {alignment.inventory[label] for label in labels[start : start + counts[number]]}
        assert own == {material.items.phones[number]}
        assert counts[number] >= 4  # 50 ms at least, at 10 ms a frame


def test_layers_of_a_model_come_out_of_one_pass(chords: Corpus) -> None:
    config = validate(ModelConfig, {"encoder": {"channels": 8, "norm": "channel"}, "context": {"hidden": 6}})
    model, rows = build(config, 0).eval(), np.arange(3)
    z, c = corpus_banks([Layer(model, "z"), Layer(model, "c")], chords, rows)
    assert (z.name, c.name) == ("CPC z", "CPC c")
    assert (z.table.frames.shape[1], c.table.frames.shape[1]) == (8, 6)
    with torch.inference_mode():
        wave = torch.from_numpy(chords.waveform(1).astype(np.float32))[None] / 2**15
        assert torch.allclose(c.table.utterance(1), model(wave).c[0], atol=1e-5)
    assert list(z.places) == chords.ids[:3]
    assert np.array_equal(z.centres(5), model.frame_centres(5))


def test_a_folder_gives_what_the_corpus_gives(chords: Corpus, tmp_path: Path) -> None:
    rows = np.arange(12)
    items = corpus_items(chords, rows)
    (bank,) = corpus_banks([MFCC39()], chords, rows)
    for id, place in bank.places.items():
        save(tmp_path, f"{id[:2]}/{id}", bank.table.utterance(place).numpy())
    first = bank.centres(1)[0]
    again = folder_bank(tmp_path, items.files.tolist(), 0.01, first)
    for bank_of in (bank, again):
        assert np.abs(bank_of.centres(50) - bank.centres(50)).max() < 1e-9
    for one, other in zip(zip(*bank.slice(items), strict=True), zip(*again.slice(items), strict=True), strict=True):
        there, here = (b.table.frames[s : s + n] for b, (s, n) in ((bank, one), (again, other)))
        assert torch.equal(there, here)


def test_without_a_first_centre_frames_lie_in_the_middle_of_their_hop(tmp_path: Path) -> None:
    save(tmp_path, "a", np.zeros((3, 2), np.float16))
    bank = folder_bank(tmp_path, ["a"], 0.02)
    assert bank.centres(3).tolist() == pytest.approx([0.01, 0.03, 0.05])
    assert bank.table.frames.dtype == torch.float32


def test_files_are_named_by_their_path_or_their_last_part(tmp_path: Path) -> None:
    save(tmp_path, "ann/one", np.full((2, 1), 1.0))
    save(tmp_path, "bob/one", np.full((3, 1), 2.0))
    save(tmp_path, "bob/two", np.full((4, 1), 3.0))
    bank = folder_bank(tmp_path, ["ann/one", "bob/one", "two"], 0.01)
    assert {name: len(bank.table.utterance(place)) for name, place in bank.places.items()} == {
        "ann/one": 2,
        "bob/one": 3,
        "two": 4,
    }
    with pytest.raises(InputError, match=r"several files are called one\.npy"):
        folder_bank(tmp_path, ["one"], 0.01)


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (np.zeros(5), r"has shape \(5,\)"),
        (np.zeros((5, 2), np.int64), "type int64"),
        (b"no array", "not an array of NumPy"),
    ],
)
def test_arrays_that_are_not_frames(tmp_path: Path, frames: np.ndarray | bytes, said: str) -> None:
    if isinstance(frames, bytes):
        (tmp_path / "a.npy").write_bytes(frames)
    else:
        save(tmp_path, "a", frames)
    with pytest.raises(InputError, match=said):
        folder_bank(tmp_path, ["a"], 0.01)


def test_what_a_folder_lacks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no \.npy"):
        folder_bank(tmp_path / "none", ["a"], 0.01)
    save(tmp_path, "a", np.zeros((5, 2)))
    save(tmp_path, "b", np.zeros((5, 3)))
    with pytest.raises(InputError, match=r"1 of 2 files have no \.npy, for example c"):
        folder_bank(tmp_path, ["a", "c"], 0.01)
    with pytest.raises(InputError, match=r"different dimensions \[2, 3\]"):
        folder_bank(tmp_path, ["a", "b"], 0.01)
    with pytest.raises(InputError, match=r"hop=0\.0: must be the seconds"):
        folder_bank(tmp_path, ["a"], 0.0)
