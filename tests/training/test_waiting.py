"""What a GPU needs of a step, seen without one: every tensor is on the device, and nothing of a step is read back.

Losses are computed on a GPU that is none (tests/pretend.py). Backward passes and updates go over PyTorch's fake
tensors, which have no numbers: whoever asks for one, or lets one decide a shape, fails.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from cpc.distributed import World
from cpc.seeding import torch_generator
from cpc.training.network import Batch
from cpc.training.optim import optimizer
from cpc.training.recipe import load_config
from cpc.training.trainer import Trainer
from tests.pretend import GPU, Pretend, install

RECIPES = Path(__file__).parents[2] / "recipes" / "speech"
SWEEPS = ("family", "negatives", "steps")
ALL = sorted(path.stem for path in RECIPES.glob("*.yaml") if path.stem not in SWEEPS)
PAIR_BY_PAIR = "triplet"  # mines negatives for each positive of a label, whose number the GPU has to say


def started(name: str, corpus: Path, precision: str, world: World | None = None, *more: str) -> tuple[Trainer, Batch]:
    """A job of a recipe, and its first batch."""
    settings = [f"data.corpus={corpus}", "data.train=pretrain", "data.valid=valid", f"training.precision={precision}"]
    settings += ["training.device=cpu", "data.window_size=24000", "data.batch_size=4", *more]
    settings += ["loss.labels=turns"] if name == "supcon-phones" else []
    job = Trainer.start(load_config(RECIPES / f"{name}.yaml", settings), world)
    job.hold()
    job.train(True)
    _, waveform = next(iter(job.windows.batches(0, 1, job.device)))
    return job, job.labelled(job.windows, 0, waveform)


def emptied(job: Trainer, batch: Batch) -> Tensor:
    """The windows of the batch, and in the job everything that has numbers, as fakes."""
    for module in (part for whole in (job.model, job.criterion) for part in whole.modules()):
        for name, own in module.named_parameters(recurse=False):
            module._parameters[name] = nn.Parameter(torch.empty(own.shape), requires_grad=own.requires_grad)
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
        if isinstance(module, nn.RNNBase):
            module._flat_weights = [getattr(module, name) for name in module._flat_weights_names]
    job.optimizer = optimizer(job.recipe.optim, job.model, job.criterion)
    return torch.empty(batch.past.shape)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", [name for name in ALL if name != PAIR_BY_PAIR])
def test_losses_are_computed_on_a_gpu_without_a_wait(
    name: str, precision: str, tones: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cpc.losses.cpc.MOST_PICKED", {"cpu": 1 << 26, "cuda": 1 << 26})  # both draw alike
    losses = [forward(*started(name, tones, precision))]
    install(monkeypatch, bf16=True)
    for hold in (0, 0.5):
        with Pretend():
            job, batch = started(name, tones, precision, World(GPU), f"training.gpu_cache_fraction={hold}")
            Pretend.waits.clear()
            losses.append(forward(job, batch))
        assert losses[-1].device == GPU
        assert Pretend.waits == []
    # The vocoder of `augmented` turns rounding into phase, and the heads of `riviere` draw their dropout elsewhere.
    near = 0.15 if precision == "bf16" else 1e-3 if name in ("augmented", "riviere") else 1e-5
    for there in losses[1:]:
        torch.testing.assert_close(there.cpu(), losses[0], rtol=near, atol=near)


def test_what_a_cuda_graph_records_stays_on_the_gpu(tones: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay would bring again what the CPU held while it was recorded."""
    install(monkeypatch, bf16=True)
    with Pretend():
        job, batch = started("cpc", tones, "bf16", World(GPU))
        assert Pretend.travels  # the windows
        Pretend.travels.clear()
        forward(job, batch)
    assert Pretend.travels == []


@torch.no_grad()
def forward(job: Trainer, batch: Batch) -> Tensor:
    """The losses of a batch, and what follows a step."""
    generator = torch_generator(job.device, 0, "negatives")
    found = job._losses(job.network, job._augmented(0, batch), generator, job.division.shares()[0])
    job.criterion.on_step_end(job.model)
    return found.per_step


@pytest.mark.parametrize("name", [name for name in ALL if name != PAIR_BY_PAIR])
def test_no_number_of_a_step_is_read(name: str, tones: Path) -> None:
    """Not in the backward pass, and not in the optimiser's step either."""
    job, batch = started(name, tones, "fp32")
    with FakeTensorMode():
        losses, norm = job.update(0, emptied(job, batch))
    assert losses.loss.shape == norm.shape == ()


def test_a_number_that_is_read_is_found(tones: Path) -> None:
    """The only recipe whose steps wait."""
    job, batch = started(PAIR_BY_PAIR, tones, "fp32")
    with FakeTensorMode(), pytest.raises(DynamicOutputShapeException):
        job.update(0, emptied(job, batch))
