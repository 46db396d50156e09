"""Augmented training: c comes from one view and z from the other, and validation stays clean."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import cpc
from cpc.augment.compose import views
from cpc.seeding import torch_generator
from cpc.training.recipe import Recipe
from cpc.training.trainer import Trainer
from tests.tiny import SHORT, tiny


def recipe(corpus: Path, **sections: object) -> Recipe:
    return tiny(corpus, "training.validate_batches=2", **sections)


NOISE = {"past": [{"kind": "coloured_noise", "snr": [0, 5]}]}


def test_c_is_made_of_the_past_and_z_of_the_future(tones: Path) -> None:
    job, still = Trainer.start(recipe(tones, augment=NOISE)), Trainer.start(recipe(tones, augment=NOISE))
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
    augmented, plain = Trainer.start(recipe(tones, augment=NOISE)), Trainer.start(recipe(tones))
    assert augmented.validate() == plain.validate()


def test_other_recordings_are_another_run(tones: Path, tmp_path: Path) -> None:
    """What noise is added is a pure function of (seed, step) only while the folder holds the same files."""
    noise = tmp_path / "noise"
    noise.mkdir()
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 16000)
    soundfile.write(noise / "a.wav", wave, 16000)
    chain = {"past": [{"kind": "folder_noise", "folder": str(noise)}]}
    run = cpc.train(tiny(tones, augment=chain, training=SHORT), name="run", root=tmp_path, progress=False)
    more = f"training.max_steps={run.steps + 1}"
    assert cpc.resume(run.path, [more], progress=False).steps == run.steps + 1
    soundfile.write(noise / "b.wav", wave, 16000)
    with pytest.raises(cpc.InputError, match=r"folder=.*noise: the recordings that augment this run are others"):
        cpc.resume(run.path, [f"training.max_steps={run.steps + 2}"], progress=False)
