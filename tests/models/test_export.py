"""What leaves gives what the model gives, for every length: ONNX (whole, as a stream), torch.export, safetensors."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import cpc
from cpc.config import InputError
from cpc.models.context import GRUConfig, LSTMConfig, TransformerConfig
from cpc.models.cpc import CPC, ModelConfig, build
from cpc.models.encoder import EncoderConfig
from cpc.models.export import export_onnx, export_safetensors, export_torch

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

MODELS = {
    "small": ModelConfig(
        EncoderConfig(channels=(8, 16, 16, 16, 24), norm="channel", output="linear"), GRUConfig(32, 2, "layer")
    ),
    "lstm": ModelConfig(EncoderConfig(channels=16, norm="batch"), LSTMConfig(20, 2)),
    "released": ModelConfig(EncoderConfig(channels=16, norm="channel_unbiased"), GRUConfig(20, 3)),
}
LENGTHS = [465, 466, 624, 625, 626, *np.random.default_rng(0).integers(700, 40_000, 15).tolist()]


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> CPC:
    made = build(MODELS[request.param], 1)
    with torch.no_grad():
        made.train()(torch.randn(4, 4000) * 0.1)  # a batch norm has statistics
    return made.eval()


def waves(samples: int) -> torch.Tensor:
    return torch.randn(samples % 3 + 1, samples, generator=torch.Generator().manual_seed(samples)) * 0.1


def test_onnx_gives_what_torch_gives_for_any_length_and_batch(model: CPC, tmp_path: Path) -> None:
    export_onnx(model, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    assert len(LENGTHS) == 20
    for samples in LENGTHS:
        wave = waves(samples)
        with torch.inference_mode():
            expected = model(wave)
        z, c = session.run(None, {"waveform": wave.numpy()})
        np.testing.assert_allclose(z, expected.z.numpy(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(c, expected.c.numpy(), rtol=1e-4, atol=1e-4)
    facts = session.get_modelmeta().custom_metadata_map
    assert (facts["sample_rate"], facts["hop"], facts["receptive_field"]) == ("16000", "160", "465")


BATCH = {"k": 0, "s": 1}  # the axis of the batch in what a convolution kept, and in a recurrent state


def test_an_onnx_stream_gives_what_the_whole_gives_however_it_is_cut(model: CPC, tmp_path: Path) -> None:
    export_onnx(model, tmp_path / "m.onnx", stream=True)
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    names = [given.name for given in session.get_inputs()]
    wave = waves(30_000)
    with torch.inference_mode():
        whole = model(wave)
    for cuts in ([30_000], [465, 500, 7000, 22_035], [480] * 62):
        begin = json.loads(session.get_modelmeta().custom_metadata_map["begin"])
        assert list(begin) == names[1:]
        state = [np.zeros([len(wave) if axis == BATCH[name[0]] else n for axis, n in enumerate(shape)], np.float32)
                 for name, shape in begin.items()]  # fmt: skip
        frames: list[list[np.ndarray]] = [[], []]
        for chunk in torch.split(wave[:, : sum(cuts)], cuts, 1):
            z, c, *state = session.run(None, dict(zip(names, [chunk.numpy(), *state], strict=True)))
            frames[0].append(z)
            frames[1].append(c)
        for found, expected in zip(frames, whole, strict=True):
            joined = np.concatenate(found, axis=1)
            assert joined.shape[1] >= expected.shape[1] - 4  # the last frames see the padding after the end
            np.testing.assert_allclose(joined, expected[:, : joined.shape[1]].numpy(), rtol=1e-4, atol=1e-4)


def test_torch_export_keeps_batch_and_length_free(model: CPC, tmp_path: Path) -> None:
    export_safetensors(model, tmp_path / "m.safetensors")
    # A process of its own: torch cannot trace through the checks of shapes that tests put around every function.
    words = ["export", str(tmp_path / "m.safetensors"), str(tmp_path / "m.pt2"), "--to", "torch-export"]
    done = subprocess.run([sys.executable, "-m", "cpc", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    program = torch.export.load(tmp_path / "m.pt2").module()
    for samples in LENGTHS[3:8]:
        wave = waves(samples)
        with torch.inference_mode():
            expected = model(wave)
        with torch.no_grad():
            z, c = program(wave)
        torch.testing.assert_close(z, expected.z, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(c, expected.c, rtol=1e-4, atol=1e-4)


def test_safetensors_open_as_a_checkpoint(model: CPC, tmp_path: Path) -> None:
    export_safetensors(model, tmp_path / "m.safetensors")
    wave = waves(5000)
    with torch.inference_mode():
        torch.testing.assert_close(cpc.load(tmp_path / "m.safetensors")(wave).c, model(wave).c, rtol=1e-6, atol=1e-6)


def test_a_transformer_is_refused_with_what_to_do(tmp_path: Path) -> None:
    model = build(ModelConfig(EncoderConfig(channels=8), TransformerConfig(16, 1, 2, 16, 8))).eval()
    for export in (export_onnx, export_torch):
        with pytest.raises(InputError, match="give --to safetensors"):
            export(model, tmp_path / "out")
    assert not list(tmp_path.iterdir())
