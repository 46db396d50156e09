"""Embedding files: the result is what each file gives alone, and a bad file loses nothing else."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import cpc
from cpc.evaluation.embed import latents_of
from cpc.model import ModelConfig, build
from cpc.nn.context import GRUConfig
from cpc.nn.encoder import EncoderConfig


@pytest.fixture
def model() -> cpc.CPC:
    return build(ModelConfig(EncoderConfig(channels=8, norm="channel"), GRUConfig(hidden=6, layers=2))).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, samples in (("a.wav", 16000), ("b/c.flac", 9000), ("b/d.wav", 40001), ("e.wav", 465)):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.uniform(-0.5, 0.5, samples), 16000)
    (tmp_path / "in" / "broken.wav").write_bytes(b"RIFF")
    soundfile.write(tmp_path / "in" / "short.wav", np.zeros(30), 16000)
    return tmp_path / "in"


@pytest.mark.parametrize("layer", ["z", "c"])
def test_files_equal_one_by_one(model: cpc.CPC, folder: Path, layer: str) -> None:
    done = cpc.embed(model, folder, folder.parent / "out", layer)
    names = sorted(str(path.relative_to(folder.parent / "out")) for path in done.written)
    assert names == ["a.npy", "b/c.npy", "b/d.npy", "e.npy"]
    for path in done.written:
        source = next(p for p in (folder / path.relative_to(folder.parent / "out")).parent.glob(path.stem + ".*"))
        with torch.inference_mode():
            alone = getattr(model(cpc.read_audio(source)[None]), layer)[0]
        frames = np.load(path)
        assert frames.dtype == np.float32
        np.testing.assert_allclose(frames, alone.numpy(), rtol=1e-5, atol=1e-5)
    assert {path.name: reason.split(":")[0] for path, reason in done.skipped} == {
        "broken.wav": "cannot be decoded",
        "short.wav": "30 samples are too few for one frame of 465",
    }


@pytest.mark.parametrize("samples", [48000, 51234, 95999, 96001])
def test_long_waveforms_in_pieces_equal_one_shot(model: cpc.CPC, samples: int) -> None:
    wave = torch.randn(samples, generator=torch.Generator().manual_seed(0))
    pieces = latents_of(model, wave, piece=1)
    with torch.inference_mode():
        whole = model(wave[None])
    assert pieces.z.shape == whole.z[0].shape
    torch.testing.assert_close(pieces.z, whole.z[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pieces.c, whole.c[0], rtol=1e-5, atol=1e-5)


def test_one_file(model: cpc.CPC, folder: Path) -> None:
    done = cpc.embed(model, folder / "b" / "c.flac", folder.parent / "one")
    assert [path.name for path in done.written] == ["c.npy"]


def test_clashes_and_nothing_to_do_are_refused(model: cpc.CPC, folder: Path) -> None:
    soundfile.write(folder / "a.flac", np.zeros(16000), 16000)
    with pytest.raises(cpc.InputError, match=r"a.wav: would write .*a.npy, as .*a.flac does"):
        cpc.embed(model, folder, folder.parent / "out")
    with pytest.raises(cpc.InputError, match="no such file or folder"):
        cpc.embed(model, folder / "nowhere", folder.parent / "out")
    assert not (folder.parent / "out").exists()
