"""Geometry, causality and rebuilding of the model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import cpc
from cpc.augment.compose import AugmentConfig, views
from cpc.augment.noise import ColouredNoise
from cpc.augment.pitch import PitchShift
from cpc.augment.reverb import SyntheticReverb
from cpc.losses.cpc import CPCLoss
from cpc.losses.negatives import Uniform
from cpc.models.context import GRUConfig
from cpc.models.cpc import ModelConfig, build
from cpc.models.encoder import Encoder, EncoderConfig

TINY = ModelConfig(EncoderConfig(channels=8, norm="channel"), GRUConfig(hidden=6))


def test_default_geometry_is_the_papers() -> None:
    """Section 3.1 of van den Oord 2018: downsampling of 160; 20480 samples are 128 frames with this padding."""
    model = build(TINY)
    assert (model.hop, model.receptive_field) == (160, 465)
    assert model.frames(20480) == 128
    assert Encoder(EncoderConfig(channels=2, padding=(0,) * 5)).frames(20480) == 126
    np.testing.assert_allclose(model.frame_centres(3) * 16000, [79.5, 239.5, 399.5])


def test_parameter_counts_are_the_papers() -> None:
    """512 channels: 5.25 M in the encoder, 0.59 M in the GRU, 1.57 M in twelve W_k."""
    model = build(ModelConfig())
    kernels = 10 + 512 * 8 + 3 * 512 * 4
    assert sum(p.numel() for p in model.encoder.parameters()) == 512 * (kernels + 5)  # weights and biases
    assert sum(p.numel() for p in model.context.parameters()) == 3 * 256 * (512 + 256 + 2)
    assert sum(p.numel() for p in CPCLoss(12, 512, 256).parameters()) == 12 * 512 * 256


@settings(max_examples=15)
@given(st.integers(2000, 6000), st.integers(0, 5))
def test_frames_are_counted_and_see_what_they_should(samples: int, which: int) -> None:
    """A change of one sample reaches exactly the frames whose receptive field, around its centre, holds it."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(channels=16))
    wave = torch.randn(1, samples) * 10
    place = samples * (which + 1) // 7
    changed = wave.clone()
    changed[0, place] += 100
    before, after = encoder(wave), encoder(changed)
    assert before.shape[1] == encoder.frames(samples)
    moved = (before != after).any(-1)[0].nonzero().flatten().numpy()
    half = encoder.receptive_field / 2
    inside = np.abs(encoder.frame_centres(before.shape[1]) - (place + 0.5)) < half
    assert set(moved) <= set(np.flatnonzero(inside))
    assert len(moved) >= inside.sum() - 1  # a ReLU may hide the outermost


def test_context_is_causal() -> None:
    model = build(TINY).eval()
    wave = torch.randn(1, 8000)
    changed = wave.clone()
    changed[:, 5000:] = 0
    first = next(t for t in range(50) if model.frame_centres(50)[t] * 16000 + 465 / 2 > 5000)
    before, after = model(wave), model(changed)
    torch.testing.assert_close(before.c[:, :first], after.c[:, :first])
    assert not torch.allclose(before.c[:, first + 2 :], after.c[:, first + 2 :])


@pytest.mark.parametrize("norm", ["none", "channel", "batch"])
def test_padded_batch_equals_each_alone(norm: str) -> None:
    model = build(ModelConfig(EncoderConfig(channels=8, norm=norm), GRUConfig(hidden=6))).eval()
    lengths = torch.tensor([7777, 5000, 900])
    waves = torch.randn(3, 7777)
    waves[torch.arange(7777) >= lengths[:, None]] = 0
    with torch.inference_mode():
        together = model(waves, lengths)
        for row, length in enumerate(lengths.tolist()):
            alone = model(waves[row : row + 1, :length])
            frames = model.frames(length)
            torch.testing.assert_close(together.z[row, :frames], alone.z[0], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(together.c[row, :frames], alone.c[0], rtol=1e-5, atol=1e-5)


def test_two_views_give_c_of_the_past_and_z_of_the_future() -> None:
    model = build(TINY).eval()
    past, future = torch.randn(2, 3, 4000).unbind()
    z, c = model(past, future=future)
    torch.testing.assert_close(c, model(past).c)
    torch.testing.assert_close(z, model(future).z)
    weight = model.encoder.convs[0].weight
    together, alone = (torch.autograd.grad(found.square().sum(), weight)[0] for found in (c, model(past).c))
    torch.testing.assert_close(together, alone)


def test_two_padded_views_equal_each_alone() -> None:
    model = build(TINY).eval()
    lengths = torch.tensor([4000, 2500])
    waves = torch.randn(2, 2, 4000)
    waves[:, 1, 2500:] = 0
    z, c = model(waves[0], lengths, waves[1])
    frames = model.frames(2500)
    torch.testing.assert_close(z[1, :frames], model(waves[1, 1:, :2500]).z[0])
    torch.testing.assert_close(c[1, :frames], model(waves[0, 1:, :2500]).c[0])


def test_the_loss_of_two_views_trains_both_ends() -> None:
    """Pitch, noise and a room on the past alone (Kharitonov et al. 2020): the loss falls, z and c get gradients."""
    config = AugmentConfig(past=(PitchShift(), ColouredNoise(), SyntheticReverb()))
    model = build(TINY)
    torch.manual_seed(0)
    loss = CPCLoss(3, 8, 6, Uniform(16))
    optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()], 1e-2)
    time = torch.arange(4000) / 16000
    wave = torch.sin(2 * torch.pi * (200 * 1.3 ** torch.arange(6.0)[:, None]) * time * (1 + time))
    losses = []
    for step in range(40):
        past, future = views(wave, config, seed=0, step=step)
        assert future is wave is not past
        latents = model(past, future=future)
        latents.z.retain_grad()
        latents.c.retain_grad()
        value = loss(latents, torch.Generator().manual_seed(0)).loss
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
        assert all(part.grad.abs().sum() > 0 for part in latents)
    assert max(losses[-3:]) < losses[0] - 0.1


def test_batch_norm_sees_every_channel_over_batch_and_time() -> None:
    encoder = Encoder(EncoderConfig(channels=4, norm="batch"))
    x = torch.randn(3, 10, 4) * 5 + 2
    normed = encoder.norms[0](x)
    torch.testing.assert_close(normed.mean((0, 1)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(normed.var((0, 1), unbiased=False), torch.ones(4), atol=1e-3, rtol=0)


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(123)
    first = build(TINY, seed=1)
    torch.manual_seed(321)
    again, other = build(TINY, seed=1), build(TINY, seed=2)
    name = "encoder.convs.0.weight"
    assert torch.equal(first.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])


def test_too_short_a_waveform_is_refused() -> None:
    with pytest.raises(ValueError, match="waveform of 5 samples: too short"):
        build(TINY)(torch.zeros(1, 5))


def test_layers_must_agree() -> None:
    with pytest.raises(ValueError, match="one entry a layer"):
        EncoderConfig(kernels=(10, 8), strides=(5,), padding=(3, 2))


def test_load_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(cpc.InputError, match="no such file or folder"):
        cpc.load(tmp_path / "nowhere")
    with pytest.raises(cpc.InputError, match="holds no checkpoint yet"):
        cpc.load(tmp_path)
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(cpc.InputError, match=r"not a checkpoint of cpc train"):
        cpc.load(tmp_path / "text.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(cpc.InputError, match="no cpc header"):
        cpc.load(tmp_path / "foreign.safetensors")
