"""Whatever was made fast trains as the plain operations do: the same losses at a fixed seed, step after step."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cpc.losses.negatives import Grid, Uniform
from cpc.losses.sharding import positives
from cpc.seeding import torch_generator
from cpc.training.trainer import Trainer
from tests import reference
from tests.tiny import tiny

STEPS, COUNT, BATCH, SAMPLES = 2, 3, 2, 1100
GEOMETRY = {"kernels": [10, 8, 4], "strides": [10, 8, 2], "padding": [3, 2, 1]}
SETTINGS = ("training.precision=fp32", "optim.lr=1e-3", "optim.warmup_steps=0")


@pytest.fixture
def job(tones: Path) -> Trainer:
    sections = {
        "model": {"encoder": {"channels": 8, "norm": "channel", **GEOMETRY}, "context": {"hidden": 8}},
        "loss": {
            "prediction_steps": STEPS,
            "negatives": {"num_negatives": COUNT, "cross_sequence_fraction": 1.0},
            "score": {"scale": 0.5},
        },
    }
    return Trainer.start(tiny(tones, *SETTINGS, window_size=SAMPLES, batch_size=BATCH, **sections))


def test_losses_are_those_of_plain_operations_to_a_hundred_thousandth(job: Trainer) -> None:
    """Six steps of Adam, the plain model beside it: loops, gathered keys and torch's own gradients."""
    weights = {name: p.detach().clone().requires_grad_() for name, p in job.model.named_parameters()}
    heads = job.criterion.heads.weight.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([*weights.values(), heads], 1e-3)
    for step, waveform in job.windows.batches(0, 6, job.device):
        expected = torch.stack(_plain(job, weights, heads, waveform, step))
        optimizer.zero_grad()
        expected.mean().backward()
        found, _ = job.update(step, waveform)
        torch.testing.assert_close(found.per_step, expected.detach(), rtol=1e-5, atol=1e-5)
        for name, parameter in job.model.named_parameters():
            torch.testing.assert_close(parameter.grad, weights[name].grad, rtol=1e-4, atol=1e-6)
        optimizer.step()


def _plain(job: Trainer, weights: dict[str, Tensor], heads: Tensor, waveform: Tensor, step: int) -> list[Tensor]:
    z, c = reference.latents(weights, waveform, GEOMETRY["strides"], GEOMETRY["padding"])
    frames = z.shape[1]
    generator = torch_generator("cpu", job.recipe.seed, "negatives", step)
    drawn = {}
    for k in range(1, STEPS + 1):
        where = positives(BATCH, frames - STEPS, frames, range(k, k + 1), torch.device("cpu"))
        drawn[k, 0] = Uniform(COUNT, 1.0).draw(where, Grid(BATCH, frames), 1, generator)[0]
    return reference.cpc_losses(z, c, heads, drawn, BATCH, 0.5)
