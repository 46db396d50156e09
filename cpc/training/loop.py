"""The training loop, top to bottom."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from cpc.distributed import Vote
from cpc.seeding import derive, torch_generator
from cpc.tracking import Tracker
from cpc.training.display import Display
from cpc.training.health import Health
from cpc.training.job import Job
from cpc.training.meter import Meter, NotFinite
from cpc.training.signals import Stop

Ending = Literal["finished", "stopped"]


def fit(job: Job, folder: Path, tracker: Tracker | None, display: Display, stop: Stop) -> dict[str, float]:
    """Train until the recipe's last step or a request to stop; gives the latest value of every metric.

    Every process of a world calls it; the one with a tracker tracks, and looks at the model's health.

    Raises:
        NotFinite: the loss is no longer a number; the last good checkpoint is untouched.
    """
    settings = job.recipe.training
    meter = Meter(job.recipe.windows.batch * job.recipe.windows.samples / job.corpus.sample_rate, job.world)
    health = Health(job, display.say, tracker.tag) if tracker else None
    record, vote = tracker.metrics if tracker else _keep_quiet, Vote(job.world)
    latest: dict[str, float] = {}
    began, before = time.perf_counter(), job.seconds
    job.train(True)
    for step, waveform in job.windows.batches(job.step, settings.steps, job.device):  # (window, sample)
        losses, norm = job.update(step, waveform)
        meter.add(losses, norm)
        done, last, halt = job.step, job.step == settings.steps, vote.cast(stop.requested is not None)
        display.step(done)

        log, validate = (last or done % n == 0 for n in (settings.log_every, settings.validate_every))
        save = last or halt or done % settings.checkpoint_every == 0
        if (log or save) and not meter.finite:
            raise NotFinite(_diagnosis(job, folder))
        if log:
            values = meter.read("train") | {"optim/lr": job.optimizer.param_groups[0]["lr"]}
            values |= job.criterion.calibration.metrics() if job.criterion.calibration else {}
            record(values, done)
            display.metrics(values, done)
            latest |= values
        if validate:
            values = _validate(job, latest, health, display)
            record(values, done)
            latest |= values
        better = validate and latest.get("valid/loss", math.inf) < job.best
        if better:
            job.best = latest["valid/loss"]
        job.seconds = before + time.perf_counter() - began
        if better:
            job.save(folder / "best.safetensors")
        if save:
            job.save(folder / "last.safetensors")
        if halt:
            break
    return latest


def _validate(job: Job, latest: Mapping[str, float], health: Health | None, display: Display) -> dict[str, float]:
    """The losses on validation windows, said, and the spread of z and c where somebody looks at it."""
    values = validation(job)
    if values:
        display.say(f"step {job.step}: validation loss {values['valid/loss']:.3f} on unseen speakers")
    return values | (health.examine({**latest, **values}) if health else {})


def _keep_quiet(values: Mapping[str, float], step: int) -> None:
    """What a process records that does not track."""


@torch.no_grad()
def validation(job: Job) -> dict[str, float]:
    """Loss and accuracy on the same windows and negatives every time, of speakers that are not trained on."""
    if job.valid is None:
        return {}
    meter = Meter(0.0, job.world)
    job.train(False)
    for number, waveform in job.valid.batches(0, job.recipe.training.validate_batches, job.device):
        generator = torch_generator(job.device, derive(job.recipe.seed, "valid"), number)
        meter.add(job.losses(job.labelled(job.valid, number, waveform), generator))
    job.train(True)
    return meter.read("valid")


def _diagnosis(job: Job, folder: Path) -> str:
    bad = [n for n, p in job.model.named_parameters() if not torch.isfinite(p).all()]
    where = f"weights that are not finite: {', '.join(bad[:3]) or 'none yet'}"
    rate = job.optimizer.param_groups[0]["lr"]
    kept = (
        "last.safetensors is the last good checkpoint" if (folder / "last.safetensors").exists() else "none was saved"
    )
    return (
        f"the loss is not a finite number at step {job.step} (learning rate {rate:.2g}, {job.precision}; {where}). "
        f"Usually the learning rate is too high: lower optim.lr, lengthen optim.warmup, set optim.clip=1, or try "
        f"training.precision=fp32. {folder}: {kept}"
    )
