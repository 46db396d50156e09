"""Embedding files: the result is what each file gives alone, a bad file loses nothing else, a kill loses nothing."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

import fsspec
import h5py
import kaldiio
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
import webdataset
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import dataset

import cpc
from cpc.audio.location import Remote, locate
from cpc.cli import embed as verbs
from cpc.evaluation.embed import inputs as listing
from cpc.evaluation.embed.writers import FORMATS, Ledger, Record
from cpc.models.context import GRUConfig
from cpc.models.cpc import ModelConfig, build
from cpc.models.encoder import EncoderConfig
from tests.packed import content, refusal

LENGTHS = {
    "a.wav": 16000,
    "b/c.flac": 9000,
    "b/d.wav": 40001,
    "e.wav": 465,
    "long.wav": 90_011,
    "b/longer.flac": 70_000,
}
PIECES = 50_000  # samples of a batch in these tests: the long ones go through in pieces
CONFIG = ModelConfig(EncoderConfig(channels=8, norm="channel"), GRUConfig(hidden=6, layers=2))


@pytest.fixture
def model() -> cpc.CPC:
    return build(CONFIG).eval()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(listing, "BLOCK_FILES", 3)
    rng = np.random.default_rng(0)
    for name, samples in LENGTHS.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.uniform(-0.5, 0.5, samples), 16000)
    (tmp_path / "in" / "broken.wav").write_bytes(b"RIFF")
    soundfile.write(tmp_path / "in" / "short.wav", np.zeros(30), 16000)
    return tmp_path / "in"


def alone(model: cpc.CPC, path: Path, layer: str) -> np.ndarray:
    with torch.inference_mode():
        return getattr(model(cpc.read_audio(path)[None]), layer)[0].numpy()


def read(out: Path, format: str) -> dict[str, np.ndarray]:
    """The frames of each file by its id, as the documentation says that they are to be read."""
    if format == "npy":
        return {path.relative_to(out).with_suffix("").as_posix(): np.load(path) for path in out.rglob("*.npy")}
    if format == "numpy-shards":
        index = pq.read_table(out / "index.parquet").to_pylist()
        shards = {row["shard"]: np.load(out / row["shard"], mmap_mode="r") for row in index}
        return {row["id"]: shards[row["shard"]][row["offset"] : row["offset"] + row["frames"]] for row in index}
    if format == "kaldi":
        with chdir(out):
            return {unquote(name): np.array(matrix) for name, matrix in kaldiio.load_scp("feats.scp").items()}
    if format == "hdf5":
        return {unquote(name): data[:] for path in out.rglob("*.h5") for name, data in h5py.File(path).items()}
    if format == "webdataset":
        tars = [str(path) for path in sorted(out.rglob("*.tar"))]
        samples = webdataset.WebDataset(tars, shardshuffle=False, empty_check=False).decode()
        return {unquote(sample["__key__"]): sample["npy"] for sample in samples}
    rows = dataset.dataset(out / "features").to_table().to_pylist()
    found: dict[str, list[np.ndarray]] = {}
    for row in sorted(rows, key=lambda row: (row["id"], row["start"])):
        pieces = found.setdefault(row["id"], [])
        assert row["start"] == sum(map(len, pieces))
        pieces.append(np.array(row["features"], np.float32).reshape(row["frames"], row["dim"]))
    return {id: np.concatenate(pieces) for id, pieces in found.items()}


@pytest.mark.parametrize("layer", ["z", "c"])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("batch_samples", [PIECES, 1 << 20])
def test_files_equal_one_by_one(
    model: cpc.CPC, folder: Path, layer: str, format: str, batch_samples: int, tmp_path: Path
) -> None:
    done = cpc.embed(model, folder, tmp_path / "out", layer, format=format, batch_samples=batch_samples)
    found = read(tmp_path / "out", format)
    assert found.keys() == {name.rpartition(".")[0] for name in LENGTHS}
    for name in LENGTHS:
        frames = found[name.rpartition(".")[0]]
        assert frames.dtype == np.float32
        np.testing.assert_allclose(frames, alone(model, folder / name, layer), rtol=1e-5, atol=1e-5)
    assert (done.files, done.new, done.skips) == (6, 6, 2)
    reasons = [
        "broken.wav\tcannot be decoded: Format not recognised",
        "short.wav\t30 samples are too few for one frame",
    ]
    lines = (tmp_path / "out" / "skipped.tsv").read_text().splitlines()
    assert lines[0] == "path\treason"
    assert [line.partition(" of ")[0] for line in lines[1:]] == reasons
    assert [path for path, _ in done.skipped] == [folder / "broken.wav", folder / "short.wav"]
    assert all(path.is_file() for path in done.written)


def test_a_model_may_be_a_path_and_a_source_one_file(model: cpc.CPC, folder: Path, tmp_path: Path) -> None:
    done = cpc.embed(model, folder / "b" / "c.flac", tmp_path / "one")
    assert done.written == [tmp_path / "one" / "c.npy"]
    with pytest.raises(cpc.InputError, match=r"nowhere: no such file or folder"):
        cpc.embed(tmp_path / "nowhere", folder, tmp_path / "out")


@pytest.mark.parametrize("format", FORMATS)
def test_shares_of_the_work_add_up_to_the_same_bytes(model: cpc.CPC, folder: Path, tmp_path: Path, format: str) -> None:
    cpc.embed(model, folder, tmp_path / "whole", format=format)
    counts = [cpc.embed(model, folder, tmp_path / "shares", format=format, shard=(i, 2)).new for i in (2, 1)]
    assert sum(counts) == 6
    assert min(counts) > 0
    assert features(tmp_path / "shares") == features(tmp_path / "whole")


def features(out: Path) -> dict[str, bytes]:
    """All files but the locks."""
    return {name: data for name, data in content(out).items() if not name.endswith(".lock")}


KILLED = """
import json, os, sys
import cpc
from cpc.evaluation.embed import embed as job, writers as ledger, inputs as listing
from tests.evaluation.embedding.test_embed import CONFIG, FORMATS, PIECES
listing.BLOCK_FILES = 3
def die(*_, **__):
    os.kill(os.getpid(), 9)
def embed_and_die(moment, format):
    if moment == "record":  # after the features of the second block, before its record
        kept, ledger.Ledger.record = ledger.Ledger.record, lambda self, n, r: die() if n == 1 else kept(self, n, r)
    elif moment == "piece":  # while the frames of a long file are being written
        job._spooled = die
    else:  # before the tables
        ledger.Ledger.finish = die
    model = cpc.build(CONFIG).eval()
    cpc.embed(model, sys.argv[1], f"{moment}-{format}", format=format, batch_samples=PIECES)
for moment in ("record", "piece", "finish"):
    for format in FORMATS:
        if (child := os.fork()) == 0:
            embed_and_die(moment, format)
        assert os.waitpid(child, 0)[1] == 9
"""


@pytest.mark.slow
def test_batches_that_are_computed_at_the_same_time_give_the_same(model: cpc.CPC, folder: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        cpc.embed(model, folder, tmp_path / "three", batch_samples=PIECES)
        assert torch.get_num_threads() == 3
        torch.set_num_threads(1)
        cpc.embed(model, folder, tmp_path / "one", batch_samples=PIECES)
    finally:
        torch.set_num_threads(before)
    together, alone = (read(tmp_path / name, "npy") for name in ("three", "one"))
    assert together.keys() == alone.keys()
    assert all(np.array_equal(together[id], alone[id]) for id in alone)


def test_killed_calls_go_on_to_the_same_bytes(model: cpc.CPC, folder: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=True, cwd=tmp_path, env=environment)
    for format in FORMATS:
        whole = tmp_path / f"whole-{format}"
        cpc.embed(model, folder, whole, format=format, batch_samples=PIECES)
        for moment in ("record", "piece", "finish"):
            out = tmp_path / f"{moment}-{format}"
            assert features(out) != features(whole)
            arrays = [path for path in out.rglob("*") if path.suffix in (".npy", ".parquet", ".ark", ".h5", ".tar")]
            before = {path: path.stat().st_mtime_ns for path in arrays}
            assert before or moment == "piece"
            again = cpc.embed(model, folder, out, format=format, batch_samples=PIECES)
            assert features(out) == features(whole)
            assert again.new < 6 or moment == "piece"
            assert cpc.embed(model, folder, out, format=format, batch_samples=PIECES).new == 0
            if moment == "finish":  # nothing was missing but the tables
                assert all(path.stat().st_mtime_ns == written for path, written in before.items())


@pytest.mark.parametrize("format", FORMATS)
def test_an_interrupted_call_goes_on_to_the_same_bytes(
    model: cpc.CPC, folder: Path, tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    cpc.embed(model, folder, whole, format=format, batch_samples=PIECES)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "record", _interrupt_at_the_second(Ledger.record))
        with pytest.raises(KeyboardInterrupt):
            cpc.embed(model, folder, out, format=format, batch_samples=PIECES)
    assert features(out) != features(whole)
    assert 0 < cpc.embed(model, folder, out, format=format, batch_samples=PIECES).new < 6
    assert features(out) == features(whole)


class Shelf(MemoryFileSystem):
    """Files that are there while they are being written, as on a disk."""

    protocol = "shelf"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.replace("shelf://", "memory://")))

    def unstrip_protocol(self, name: str) -> str:
        return f"shelf://{self._strip_protocol(name).lstrip('/')}"


@pytest.mark.parametrize("scheme", ["memory", "shelf"])
@pytest.mark.parametrize("format", FORMATS)
def test_at_a_url_there_are_the_same_bytes_after_an_interruption_too(
    model: cpc.CPC, folder: Path, tmp_path: Path, format: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPC_CACHE", str(tmp_path / "cache"))
    fsspec.register_implementation("shelf", Shelf, clobber=True)
    fsspec.filesystem(scheme).store.clear()
    url = f"{scheme}://bucket/out"
    cpc.embed(model, folder, tmp_path / "local", format=format, batch_samples=PIECES)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "record", _interrupt_at_the_second(Ledger.record))
        with pytest.raises(KeyboardInterrupt):
            cpc.embed(model, folder, url, format=format, batch_samples=PIECES)
    assert 0 < cpc.embed(model, folder, url, format=format, batch_samples=PIECES).new < 6
    place = locate(url)
    assert isinstance(place, Remote)
    there = {path.relative_to(place).as_posix(): path.read_bytes() for path in place.files()}
    assert there == features(tmp_path / "local")
    again = cpc.embed(model, folder, url, format=format, batch_samples=PIECES)
    assert (again.new, again.files, again.skips, str(again.ledger.out)) == (0, 6, 2, url)
    taken = refusal(lambda: cpc.embed(model, folder, url, "z", format=format))
    assert taken == f"out={url}: holds features of other layer; remove it or name another folder"
    with Ledger(place, "npy").lock("1-of-1"):
        assert "another process is embedding" in refusal(lambda: cpc.embed(model, folder, url, format=format))


def test_a_url_that_takes_no_files_is_one_line(
    model: cpc.CPC, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPC_CACHE", str(tmp_path / "cache"))
    said = refusal(lambda: cpc.embed(model, folder / "a.wav", "http://127.0.0.1:1/out", format="parquet"))
    assert "127.0.0.1:1/out" in said
    assert "cannot be" in said
    fsspec.register_implementation("shelf", Shelf, clobber=True)
    monkeypatch.setattr(Shelf, "put_file", AbstractFileSystem.cp_file)  # as of a file system that only reads
    said = refusal(lambda: cpc.embed(model, folder / "a.wav", "shelf://bucket/read-only", format="parquet"))
    assert "files cannot be sent to this kind of URL; name a local folder" in said
    (tmp_path / "file").write_text("")
    said = refusal(lambda: cpc.embed(model, folder / "a.wav", f"file://{tmp_path}/file", format="parquet"))
    assert said == f"out={tmp_path}/file: is a file; give a folder"


def _interrupt_at_the_second(record: Callable[[Ledger, int, Record], None]) -> Callable[[Ledger, int, Record], None]:
    def interrupted(ledger: Ledger, number: int, found: Record) -> None:
        if number == 1:
            raise KeyboardInterrupt
        record(ledger, number, found)

    return interrupted


def test_npy_does_only_what_is_missing_when_files_come_change_and_go(
    model: cpc.CPC, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    cpc.embed(model, folder, out)
    (out / "a.npy").unlink()
    assert cpc.embed(model, folder, out).new == 1
    soundfile.write(folder / "0.wav", np.ones(5000) * 0.1, 16000)
    time.sleep(0.01)
    soundfile.write(folder / "e.wav", np.ones(6000) * 0.1, 16000)
    done = cpc.embed(model, folder, out)
    assert 2 <= done.new < 7
    assert done.files == 7
    for name in ("0.wav", "e.wav", "a.wav"):
        ours = np.load((out / name).with_suffix(".npy"))
        np.testing.assert_allclose(ours, alone(model, folder / name, "c"), rtol=1e-5, atol=1e-5)


def test_what_lies_at_out_is_not_mixed_with_features_of_another_kind(
    model: cpc.CPC, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    cpc.embed(model, folder, out, format="parquet")
    before = features(out)
    assert "other layer; remove it" in refusal(cpc.embed, model, folder, out, "z", format="parquet")
    assert "other format; remove it" in refusal(cpc.embed, model, folder, out)
    assert "other weights; remove it" in refusal(cpc.embed, build(CONFIG, 1), folder, out, format="parquet")
    soundfile.write(folder / "0.wav", np.zeros(5000), 16000)
    assert "other files; remove it" in refusal(cpc.embed, model, folder, out, format="parquet")
    assert features(out) == before


def test_old_arrays_of_unknown_origin_are_written_anew(model: cpc.CPC, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    np.save(tmp_path / "out" / "a.npy", np.zeros((3, 6), np.float32))
    assert cpc.embed(model, folder, tmp_path / "out").new == 6
    assert len(np.load(tmp_path / "out" / "a.npy")) == 100


def test_clashes_and_wrong_shares_are_refused_and_leave_nothing(model: cpc.CPC, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "no such file or folder" in refusal(cpc.embed, model, folder / "nowhere", out)
    assert "shard=3/2: must be I/N" in refusal(cpc.embed, model, folder, out, shard=(3, 2))
    soundfile.write(folder / "a.flac", np.zeros(16000), 16000)
    assert "id=a: two files would share it" in refusal(cpc.embed, model, folder, out)
    assert not out.exists()
    assert "is a file; give a folder" in refusal(cpc.embed, model, folder / "e.wav", folder / "short.wav")


def test_two_processes_do_not_do_the_same_work(model: cpc.CPC, folder: Path, tmp_path: Path) -> None:
    with Ledger(tmp_path / "out", "npy").lock("1-of-1"):
        assert "another process is embedding into it" in refusal(cpc.embed, model, folder, tmp_path / "out")
    assert cpc.embed(model, folder, tmp_path / "out").new == 6


def test_a_long_file_that_is_damaged_at_its_end_is_skipped(model: cpc.CPC, folder: Path, tmp_path: Path) -> None:
    damaged = folder / "b" / "longer.flac"
    damaged.write_bytes(damaged.read_bytes()[:-20_000])
    done = cpc.embed(model, folder, tmp_path / "out", format="numpy-shards", batch_samples=PIECES)
    assert next(reason for path, reason in done.skipped if path == damaged).startswith("cut short or damaged: only ")
    assert "b/longer" not in read(tmp_path / "out", "numpy-shards")


@pytest.mark.parametrize("format", FORMATS)
def test_wrong_lengths_in_headers_are_noted(model: cpc.CPC, folder: Path, tmp_path: Path, format: str) -> None:
    expected = alone(model, folder / "a.wav", "c")
    content = bytearray((folder / "a.wav").read_bytes())
    content[40:44] = bytes(4)  # as from a pipe
    (folder / "a.wav").write_bytes(content)
    (folder / "long.wav").write_bytes((folder / "long.wav").read_bytes()[:-1600])
    for _ in range(2):  # the second time all is there
        done = cpc.embed(model, folder, tmp_path / "out", format=format, batch_samples=PIECES)
        assert (done.files, done.skips, done.notes) == (6, 2, 2)
    assert (tmp_path / "out/notes.tsv").read_text().splitlines() == [
        "path\tnote",
        "a.wav\tits header leaves the length open: taken to the end of the file, 16000 samples",
        "long.wav\tholds 800 samples less than the 90011 of its header: taken as it is",
    ]
    np.testing.assert_allclose(read(tmp_path / "out", format)["a"], expected, rtol=1e-5, atol=1e-5)


def test_a_model_in_training_mode_is_embedded_in_evaluation_mode(folder: Path, tmp_path: Path) -> None:
    model = build(ModelConfig(EncoderConfig(channels=8, norm="batch"), GRUConfig(hidden=6))).train()
    cpc.embed(model, folder, tmp_path / "out", batch_samples=PIECES)
    assert model.training
    model.eval()
    for name in ("a.wav", "long.wav"):
        ours = np.load((tmp_path / "out" / name).with_suffix(".npy"))
        np.testing.assert_allclose(ours, alone(model, folder / name, "c"), rtol=1e-5, atol=1e-5)


def test_bf16_is_near(model: cpc.CPC, folder: Path, tmp_path: Path) -> None:
    cpc.embed(model, folder, tmp_path / "out", precision="bf16", batch_samples=PIECES)
    for name in ("a.wav", "long.wav"):
        ours = np.load((tmp_path / "out" / name).with_suffix(".npy"))
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, alone(model, folder / name, "c"), atol=0.05)


def test_names_that_an_archive_cannot_hold_come_back(model: cpc.CPC, tmp_path: Path) -> None:
    """Spaces end a key of Kaldi, a dot one of WebDataset, a slash is a group of HDF5; %XX stands for them."""
    names = ["a b", "a.b", "a", "a/b", "50%", "c/ä\u3000b.x"]
    for name in names:
        path = tmp_path / "in" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.linspace(-0.5, 0.5, 2000), 16000)
    for format in FORMATS:
        cpc.embed(model, tmp_path / "in", tmp_path / format, format=format)
        assert set(read(tmp_path / format, format)) == set(names), format


def test_a_format_without_its_library_is_one_line(
    model: cpc.CPC, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(cpc.InputError, match=r"^format=hdf5: needs h5py; install it with: pip install h5py"):
        cpc.embed(model, folder, tmp_path / "out", format="hdf5")
    assert not (tmp_path / "out").exists()


def test_a_share_without_files_is_no_failure(
    model: cpc.CPC,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One task of a job array may get no block of files; nothing is wrong with it."""
    monkeypatch.setattr("cpc.models.checkpoint.load", lambda *_: model)
    verbs.embed(Path("run"), folder, tmp_path / "out", shard="99/99")
    assert "shard=99/99: has no files" in capsys.readouterr().err
