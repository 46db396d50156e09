"""Training on a GPU: it never waits for the device within a step, and two GPUs equal one."""

import os
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from cpc.distributed import World, start
from cpc.models.encoder import ChannelNorm
from cpc.training.cuda_graph import WARM_UP
from cpc.training.recipe import Recipe
from cpc.training.trainer import Trainer
from tests.tiny import tiny

pytestmark = pytest.mark.cuda


def recipe(corpus: Path, *overrides: str) -> Recipe:
    model = {"encoder": {"channels": 32, "norm": "channel"}, "context": {"hidden": 32}}
    return tiny(
        corpus, "data.batch_size=8", *overrides, model=model, optim={"lr": 1e-3, "max_grad_norm": 1.0}, training={}
    )


def updates(job: Trainer, steps: int) -> list[torch.Tensor]:
    job.model.train()
    return [job.update(step, wave)[0].loss.detach() for step, wave in job.windows.batches(0, steps, job.device)]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("hold", [False, True])
def test_no_step_waits_for_the_device(tones: Path, cuda: torch.device, precision: str, hold: bool) -> None:
    """After the first, which sets kernels up, PyTorch raises an error at whatever would synchronise."""
    job = Trainer.start(
        recipe(tones, f"training.precision={precision}", f"training.gpu_cache_fraction={0.5 if hold else 0}")
    )
    assert job.hold() == hold
    updates(job, 2)
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = updates(job, 3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.isfinite(loss) for loss in losses)


def test_a_held_corpus_trains_as_a_streamed_one(tones: Path, cuda: torch.device) -> None:
    jobs = [
        Trainer.start(recipe(tones, "training.precision=fp32", f"training.gpu_cache_fraction={share}"))
        for share in (0, 0.5)
    ]
    assert [job.hold() for job in jobs] == [False, True]
    streamed, held = (torch.stack(updates(job, 5)) for job in jobs)
    torch.testing.assert_close(held, streamed)


def test_channel_norm_keeps_the_type_of_its_input(cuda: torch.device) -> None:
    norm, x = ChannelNorm(64).to(cuda), torch.randn(2, 50, 64, device=cuda)
    with torch.autocast("cuda", torch.bfloat16):
        found = norm(x.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), norm(x), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("micro", [1, 2])
def test_a_cuda_graph_trains_as_plain_launches_do(tones: Path, cuda: torch.device, precision: str, micro: int) -> None:
    """More steps than the plain ones at its beginning; negatives are drawn anew in each replay."""
    found = {}
    for graph in (False, True):
        settings = (f"training.precision={precision}", f"training.cuda_graph={graph}")
        job = Trainer.start(recipe(tones, *settings, f"training.gradient_accumulation_steps={micro}"))
        found[graph] = torch.stack(updates(job, 4 + WARM_UP))
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if precision == "fp32" else {"rtol": 1e-2, "atol": 1e-2}
    torch.testing.assert_close(found[True], found[False], **tolerance)


def test_a_replay_computes_what_the_plain_work_does(tones: Path, cuda: torch.device) -> None:
    """With the weights kept, the same batch and seed give the same losses; another seed gives others."""
    job = Trainer.start(recipe(tones, "training.precision=fp32", "training.cuda_graph=true", "optim.lr=1e-30"))
    job.train(True)
    plain, *_, again = (job.update(0, wave)[0] for wave in [_first(job)] * (WARM_UP + 3))
    torch.testing.assert_close(again, plain)
    assert not torch.equal(job.update(1, _first(job))[0].per_step, again.per_step)


def _first(job: Trainer) -> torch.Tensor:
    return next(iter(job.windows.batches(0, 1, job.device)))[1]


def process(rank: int, folder: Path, corpus: Path, override: str) -> None:
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "29555", "WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    with start("cuda") as world:
        job = Trainer.start(recipe(corpus, "training.precision=fp32", override), world)
        losses = [world.mean(loss) for loss in updates(job, 3 + WARM_UP)]
        if world.first:
            torch.save(torch.stack(losses).cpu(), folder / "losses.pt")


@pytest.mark.parametrize("override", ["loss.gather_distributed=true", "loss.group_size=4"])
def test_two_gpus_equal_one(tones: Path, tmp_path: Path, cuda: torch.device, override: str) -> None:
    """With groups of their own, each is a CUDA graph, and gradients are averaged after it."""
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    mp.spawn(process, (tmp_path, tones, override), 2)
    one = Trainer.start(recipe(tones, "training.precision=fp32", override), World(cuda))
    torch.testing.assert_close(torch.load(tmp_path / "losses.pt"), torch.stack(updates(one, 3 + WARM_UP)).cpu())
