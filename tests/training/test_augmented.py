"""Augmented training: c comes from one view and z from the other, and validation stays clean."""

from pathlib import Path

import torch

import cpc
from cpc.augment import views
from cpc.seeding import torch_generator
from cpc.training.job import Job
from cpc.training.loop import validation
from cpc.training.recipe import Recipe
from tests.tiny import tiny


def recipe(corpus: Path, **sections: object) -> Recipe:
    return tiny(corpus, "training.validate_batches=2", **sections)


NOISE = {"past": [{"kind": "coloured_noise", "snr": [0, 5]}]}


def test_c_is_made_of_the_past_and_z_of_the_future(tones: Path) -> None:
    job, still = Job.start(recipe(tones, augment=NOISE)), Job.start(recipe(tones, augment=NOISE))
    for step, waveform in job.windows.batches(0, 1, job.device):
        made = views(waveform, job.recipe.augment, job.recipe.seed, step)
        assert torch.equal(made.future, waveform)
        assert not torch.equal(made.past, waveform)
        past, future = still.model(made.past), still.model(made.future)
        generator = torch_generator(job.device, job.recipe.seed, "negatives", step)
        expected = still.criterion(cpc.Latents(future.z, past.c), generator).loss
        losses, _ = job.update(step, waveform)
        torch.testing.assert_close(losses.loss, expected.detach())


def test_validation_is_of_clean_windows(tones: Path) -> None:
    augmented, plain = Job.start(recipe(tones, augment=NOISE)), Job.start(recipe(tones))
    assert validation(augmented) == validation(plain)
