"""Conventions of others: Hugging Face's from_pretrained and AutoModel, torch.hub, and s3prl's upstream."""

import json
from pathlib import Path

import pytest
import torch

from cpc.models.cpc import CPC, build
from cpc.models.export import export_hf, export_safetensors
from cpc.models.s3prl import UpstreamExpert
from tests.models.test_export import MODELS

WAVES = [torch.randn(n, generator=torch.Generator().manual_seed(n)) * 0.1 for n in (4000, 2500, 3333)]


@pytest.fixture(params=["small", "lstm"])
def model(request: pytest.FixtureRequest) -> CPC:
    return build(MODELS[request.param], 1).eval()


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    waves = torch.nn.utils.rnn.pad_sequence(WAVES, batch_first=True)
    mask = torch.arange(waves.shape[1]) < torch.tensor([len(wave) for wave in WAVES])[:, None]
    return waves, mask.long()


def test_from_pretrained_gives_c_and_every_layer(model: CPC, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
    from cpc.models.hf import CPCModel

    export_hf(model, tmp_path, "# card\n")
    assert {file.name for file in tmp_path.iterdir()} == {
        "config.json", "preprocessor_config.json", "model.safetensors", "README.md",
    }  # fmt: skip
    waves, mask = padded()
    for loaded in (CPCModel.from_pretrained(tmp_path), transformers.AutoModel.from_pretrained(tmp_path)):
        loaded.eval()
        with torch.inference_mode():
            found = loaded(waves, attention_mask=mask, output_hidden_states=True)
            plain = loaded(waves[:1])
        assert len(found.hidden_states) == 1 + model.context.depth
        assert torch.equal(found.hidden_states[-1], found.last_hidden_state)
        for place, wave in enumerate(WAVES):
            with torch.inference_mode():
                z, c = model(wave[None])
            frames = z.shape[1]
            torch.testing.assert_close(found.last_hidden_state[place, :frames], c[0], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(found.hidden_states[0][place, :frames], z[0], rtol=1e-5, atol=1e-5)
            assert not found.last_hidden_state[place, frames:].any()
        assert plain.hidden_states is None
        again = tmp_path / "again"
        loaded.save_pretrained(again)
        assert (
            json.loads((again / "config.json").read_text())["cpc"]
            == json.loads((tmp_path / "config.json").read_text())["cpc"]
        )
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    given = extractor([wave.numpy() for wave in WAVES], sampling_rate=16000, padding=True, return_tensors="pt")
    assert torch.equal(given["input_values"], waves)
    assert torch.equal(given["attention_mask"].long(), mask)


def test_torch_hub_loads_a_run_from_the_checkout(model: CPC, tmp_path: Path) -> None:
    export_safetensors(model, tmp_path / "m.safetensors")
    checkout = str(Path(__file__).parents[2])
    loaded = torch.hub.load(checkout, "cpc", source="local", path=str(tmp_path / "m.safetensors"))
    with torch.inference_mode():
        torch.testing.assert_close(loaded(WAVES[0][None]).c, model(WAVES[0][None]).c)


def test_an_s3prl_upstream_answers_as_s3prl_asks(model: CPC, tmp_path: Path) -> None:
    export_safetensors(model, tmp_path / "m.safetensors")
    expert = UpstreamExpert(str(tmp_path / "m.safetensors"), None).eval()
    assert expert.get_downsample_rates("hidden_states") == 160
    with torch.inference_mode():
        states = expert(WAVES)["hidden_states"]
        for state, name in zip(states, ("z", "c"), strict=True):
            assert state.shape[0] == len(WAVES)
            for place, wave in enumerate(WAVES):
                alone = getattr(model(wave[None]), name)[0]
                torch.testing.assert_close(state[place, : len(alone)], alone, rtol=1e-5, atol=1e-5)
