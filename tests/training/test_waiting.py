"""What a GPU needs of a step, seen without one: every tensor is on the device, and nothing of a step is read back.

PyTorch's fake tensors have a shape, a type and a device, but no numbers. Whoever mixes devices fails on them, and so
does whoever asks for a number or lets one decide a shape, for which a GPU would have to finish all that was launched.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cpc import load_config
from cpc.distributed import World
from cpc.training.job import Job
from cpc.training.network import Batch
from cpc.training.schedule import optimizer

RECIPES = Path(__file__).parents[2] / "recipes" / "speech"
SWEEPS = ("family", "negatives", "steps")
ALL = sorted(path.stem for path in RECIPES.glob("*.yaml") if path.stem not in SWEEPS)
PAIR_BY_PAIR = "triplet"  # mines negatives for each positive of a label, whose number the GPU has to say
GPU = torch.device("cuda", 0)


class Drawn(torch.Generator):
    """Says that it is on the GPU, where none can be made."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return GPU


class Travels(TorchDispatchMode):
    """Collects what goes from one device to another and has the other side wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        devices = {leaf.device for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor) and leaf.ndim}
        if len(devices) > 1 and not (kwargs or {}).get("non_blocking"):
            self.waits.append(str(func))
        return out


def recurrent(self: nn.GRU | nn.LSTM, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
    """In the place of cuDNN's kernel, which has no fake: the same shapes, type and device."""
    c = x @ self.weight_ih_l0[: self.hidden_size].t().to(x.dtype)
    last = c[:, -1].expand(self.num_layers, -1, -1)
    return c, last if isinstance(self, nn.GRU) else (last, last)


def started(name: str, corpus: Path, precision: str) -> tuple[Job, Batch]:
    """A job of a recipe, and its first batch, on the CPU."""
    settings = [f"data.corpus={corpus}", "data.train=pretrain", "data.valid=valid", f"training.precision={precision}"]
    settings += ["training.device=cpu", "windows={samples: 24000, batch: 4}"]
    settings += ["loss.labels=turns"] if name == "supcon-phones" else []
    job = Job.start(load_config(RECIPES / f"{name}.yaml", settings))
    job.train(True)
    _, waveform = next(iter(job.windows.batches(0, 1, job.device)))
    return job, job.labelled(job.windows, 0, waveform)


def emptied(job: Job, batch: Batch, device: torch.device) -> Batch:
    """The batch on `device`, and the job there too, with everything in it a fake."""
    for module in (part for whole in (job.model, job.criterion) for part in whole.modules()):
        for name, own in module.named_parameters(recurse=False):
            like = torch.empty(own.shape, device=device)
            module._parameters[name] = nn.Parameter(like, requires_grad=own.requires_grad)
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = torch.empty(buffer.shape, device=device, dtype=buffer.dtype)
        if isinstance(module, nn.RNNBase):
            module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]
    object.__setattr__(job, "world", World(device))
    job.optimizer = optimizer(job.recipe.optim, job.parameters)
    return Batch(*(None if x is None else torch.empty(x.shape, device=device, dtype=x.dtype) for x in batch))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", [name for name in ALL if name != PAIR_BY_PAIR])
def test_losses_are_computed_on_the_device(
    name: str, precision: str, tones: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, batch = started(name, tones, precision)
    for network in (nn.GRU, nn.LSTM):
        monkeypatch.setattr(network, "forward", recurrent)
    monkeypatch.setattr(import_module("cpc.augment.views"), "torch_generator", lambda *_: Drawn())
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    with FakeTensorMode(), Travels() as travels:
        batch = emptied(job, batch, GPU)
        losses = job._losses(job.network, job._augmented(0, batch), Drawn(), job.division.shares()[0])
        job.criterion.follow(job.model)
    assert losses.loss.device == losses.accuracy.device == GPU
    assert travels.waits == []


@pytest.mark.parametrize("name", [name for name in ALL if name != PAIR_BY_PAIR])
def test_no_number_of_a_step_is_read(name: str, tones: Path) -> None:
    """Not in the backward pass, and not in the optimiser's step either."""
    job, batch = started(name, tones, "fp32")
    with FakeTensorMode():
        losses, norm = job.update(0, emptied(job, batch, torch.device("cpu")).past)
    assert losses.loss.shape == norm.shape == ()


def test_a_number_that_is_read_is_found(tones: Path) -> None:
    """The only recipe whose steps wait."""
    job, batch = started(PAIR_BY_PAIR, tones, "fp32")
    with FakeTensorMode(), pytest.raises(DynamicOutputShapeException):
        job.update(0, emptied(job, batch, torch.device("cpu")).past)
