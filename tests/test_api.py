"""The interface that the README shows."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import cpc
from cpc.model import ModelConfig
from cpc.nn.context import GRUConfig
from cpc.nn.encoder import EncoderConfig


def test_every_public_name_resolves() -> None:
    assert all(getattr(cpc, name) is not None for name in cpc.__all__)
    assert set(dir(cpc)) == set(cpc.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Cpc'"):
        cpc.Cpc  # noqa: B018 (the access is the test)


@pytest.mark.parametrize(("set_by_user", "expected"), [(None, "1"), ("0", "0")])
def test_huge_pages_are_asked_for_unless_the_user_says_otherwise(set_by_user: str | None, expected: str) -> None:
    name = "THP_MEM_ALLOC_ENABLE"
    environment = {key: value for key, value in os.environ.items() if key != name}
    if set_by_user is not None:
        environment[name] = set_by_user
    command = [sys.executable, "-c", f"import os, cpc; print(os.environ['{name}'])"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def test_from_a_file_to_losses(tmp_path: Path) -> None:
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 20480)
    soundfile.write(tmp_path / "a.flac", wave, 16000)
    model = cpc.build(ModelConfig(EncoderConfig(channels=16), GRUConfig(hidden=8)))
    latents = model(cpc.read_audio(tmp_path / "a.flac", model.sample_rate)[None])
    assert latents.z.shape == (1, 128, 16)
    assert latents.c.shape == (1, 128, 8)
    loss_fn = cpc.CPCLoss(
        steps=12, dim=16, hidden=8, negatives=cpc.Uniform(count=128, across=0.0), objective=cpc.InfoNCE()
    )
    losses = loss_fn(latents)
    assert losses.loss.shape == ()
    assert losses.per_step.shape == losses.accuracy.shape == losses.bound.shape == (12,)
    torch.testing.assert_close(losses.bound, np.log(129) - losses.per_step.detach())
    losses.loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_across_needs_another_sequence() -> None:
    model = cpc.build(ModelConfig(EncoderConfig(channels=16), GRUConfig(hidden=8)))
    loss_fn = cpc.CPCLoss(steps=12, dim=16, hidden=8)
    with pytest.raises(ValueError, match=r"across=0.5: needs at least 2 sequences"):
        loss_fn(model(torch.zeros(1, 20480)))


@pytest.mark.cuda
def test_a_step_on_the_gpu_equals_the_cpu(cuda: torch.device) -> None:
    """Same weights and negatives in float32: losses agree to the precision of TF32-free arithmetic."""
    model = cpc.build(ModelConfig(EncoderConfig(channels=32, norm="channel"), GRUConfig(hidden=16)))
    loss_fn = cpc.CPCLoss(steps=4, dim=32, hidden=16, negatives=cpc.All())
    wave = torch.randn(4, 8000)
    expected = loss_fn(model(wave)).per_step
    found = loss_fn.to(cuda)(model.to(cuda)(wave.to(cuda))).per_step
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)
