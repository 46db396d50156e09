"""The interface that the README shows."""

import dataclasses
import inspect
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import cpc
from cpc.models.context import GRUConfig
from cpc.models.cpc import ModelConfig
from cpc.models.encoder import EncoderConfig


def test_every_public_name_resolves() -> None:
    assert all(getattr(cpc, name) is not None for name in cpc.__all__)
    assert set(dir(cpc)) == set(cpc.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Cpc'"):
        cpc.Cpc  # noqa: B018 (the access is the test)


def lacking(value: Any) -> list[str]:
    """What the docstring of a public function, class or method does not say."""
    text, call = inspect.getdoc(value) or "", inspect.signature(value)
    if inspect.isclass(value):
        fields = [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
        fields += getattr(value, "_fields", ())
        if fields:  # a line each, from which the reference of settings is made too
            return [name for name in fields if name != "kind" and not re.search(rf"^ *{name}: \S", text, re.MULTILINE)]
        return ["Args"] if call.parameters and "Args:" not in text else []
    found = ["Args"] if set(call.parameters) - {"self", "cls"} and "Args:" not in text else []
    gives = call.return_annotation not in (None, "None", inspect.Signature.empty)
    return [*found, "Returns"] if gives and "Returns:" not in text else found


@pytest.mark.parametrize("name", [name for name in cpc.__all__ if name not in ("__version__", "InputError")])
def test_every_public_name_says_what_it_takes_and_gives(name: str) -> None:
    value = getattr(cpc, name)
    assert not lacking(value), name
    if name in ("CPC", "Corpus", "Stream"):  # what is called on them
        for method, made in vars(value).items():
            function = getattr(made, "__func__", made)  # of a classmethod
            if inspect.isfunction(function) and not method.startswith("_"):
                assert not lacking(function), f"{name}.{method}"


@pytest.mark.parametrize(("set_by_user", "expected"), [(None, "1"), ("0", "0")])
def test_huge_pages_are_asked_for_unless_the_user_says_otherwise(set_by_user: str | None, expected: str) -> None:
    name = "THP_MEM_ALLOC_ENABLE"
    environment = {key: value for key, value in os.environ.items() if key != name}
    if set_by_user is not None:
        environment[name] = set_by_user
    code = (
        "import os, sys; sys.argv = ['cpc', '--version']; import cpc.cli\n"
        f"before = os.environ.get('{name}')\n"
        "try: cpc.cli.main()\nexcept SystemExit: pass\n"
        f"print(before, os.environ['{name}'])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"{set_by_user} {expected}"


def test_a_library_call_leaves_the_process_as_it_was(tones: Path, tmp_path: Path) -> None:
    """Importing everything and extracting features changes no variable, no thread count, no precision of a GPU."""
    code = (
        "import os, torch\n"
        "def state():\n"
        "    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn\n"
        "    return dict(os.environ), torch.get_num_threads(), cuda.allow_tf32, cudnn.allow_tf32\n"
        "torch.backends.cuda.matmul.allow_tf32 = True\n"
        "before = state()\n"
        "import numpy as np, soundfile, cpc\n"
        "[getattr(cpc, name) for name in cpc.__all__]\n"
        "from cpc.data.corpus import Corpus\n"
        "from cpc.evaluation.features import extract\n"
        "from cpc.models.context import GRUConfig\nfrom cpc.models.encoder import EncoderConfig\n"
        "soundfile.write('a.flac', np.random.default_rng(0).uniform(-0.5, 0.5, 20480), 16000)\n"
        "model = cpc.build(cpc.ModelConfig(EncoderConfig(channels=16), GRUConfig(hidden=8)))\n"
        f"extract(model, Corpus.open({str(tones)!r}), np.arange(1))\n"
        "cpc.embed(model, 'a.flac', 'out')\n"
        "after = state()\n"
        "print([name for name in after[0] if after[0][name] != before[0].get(name)], after[1:] == before[1:])\n"
    )
    (tmp_path / "use.py").write_text(code)
    done = subprocess.run([sys.executable, "use.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] True"


def test_from_a_file_to_losses(tmp_path: Path) -> None:
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 20480)
    soundfile.write(tmp_path / "a.flac", wave, 16000)
    model = cpc.build(ModelConfig(EncoderConfig(channels=16), GRUConfig(hidden=8)))
    latents = model(cpc.read_audio(tmp_path / "a.flac", model.sample_rate)[None])
    assert latents.z.shape == (1, 128, 16)
    assert latents.c.shape == (1, 128, 8)
    loss_fn = cpc.CPCLoss(
        prediction_steps=12,
        dim=16,
        hidden=8,
        negatives=cpc.Uniform(num_negatives=128, cross_sequence_fraction=0.0),
        objective=cpc.InfoNCE(),
    )
    losses = loss_fn(latents)
    assert losses.loss.shape == ()
    assert losses.per_step.shape == losses.accuracy.shape == losses.bound.shape == (12,)
    torch.testing.assert_close(losses.bound, np.log(129) - losses.per_step.detach())
    losses.loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_across_needs_another_sequence() -> None:
    model = cpc.build(ModelConfig(EncoderConfig(channels=16), GRUConfig(hidden=8)))
    loss_fn = cpc.CPCLoss(prediction_steps=12, dim=16, hidden=8)
    with pytest.raises(ValueError, match=r"cross_sequence_fraction=0.5: needs at least 2 sequences"):
        loss_fn(model(torch.zeros(1, 20480)))


@pytest.mark.cuda
def test_a_step_on_the_gpu_equals_the_cpu(cuda: torch.device) -> None:
    """Same weights and negatives in float32: losses agree to the precision of TF32-free arithmetic."""
    model = cpc.build(ModelConfig(EncoderConfig(channels=32, norm="channel"), GRUConfig(hidden=16)))
    loss_fn = cpc.CPCLoss(prediction_steps=4, dim=32, hidden=16, negatives=cpc.All())
    wave = torch.randn(4, 8000)
    expected = loss_fn(model(wave)).per_step
    found = loss_fn.to(cuda)(model.to(cuda)(wave.to(cuda))).per_step
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-4, atol=1e-4)


def test_an_installation_takes_the_pair_of_torch_and_torchaudio_that_is_tested() -> None:
    root = Path(__file__).parents[1]
    asked = tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    locked = (root / "requirements.lock").read_text().splitlines()
    for name in ("torch", "torchaudio"):
        (pin,) = [line for line in locked if line.startswith(f"{name}==")]
        assert pin in asked
