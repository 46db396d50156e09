"""Ctrl-C and SIGTERM ask the loop to stop after its step; a second Ctrl-C stops at once."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Literal

import torch

from cpc.distributed import Vote
from cpc.seeding import derive, torch_generator
from cpc.tracking.mlflow import Tracker
from cpc.training.collapse import CollapseMonitor
from cpc.training.job import Trainer
from cpc.training.metrics import Meter, NotFinite
from cpc.training.progress import Display

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class SignalHandler:
    """`requested` is the name of the signal that arrived, or None."""

    requested: str | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name


@contextmanager
def stoppable() -> Iterator[SignalHandler]:
    """Within the block, signals set `requested`; outside the main thread nothing is caught."""
    stop = SignalHandler()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- The training loop, top to bottom.


Ending = Literal["finished", "stopped"]
Hopeless = Callable[[int, Mapping[str, float]], bool]


def fit(
    job: Trainer,
    folder: Path,
    tracker: Tracker | None,
    display: Display,
    stop: SignalHandler,
    hopeless: Hopeless | None = None,
) -> dict[str, float]:
    """Train until the recipe's last step or a request to stop; gives the latest value of every metric.

    Every process of a world calls it; the one with a tracker tracks, and looks at the model's health. `hopeless` is
    asked after each validation, with the step and the metrics, whether the run is to stop: it does a step later.

    Raises:
        NotFinite: the loss is no longer a number; the last good checkpoint is untouched.
    """
    settings = job.recipe.training
    meter = Meter(job.recipe.data.batch_size * job.recipe.data.window_size / job.corpus.sample_rate, job.world)
    health = CollapseMonitor(job, display.say, tracker.tag) if tracker else None
    record, vote = tracker.metrics if tracker else _keep_quiet, Vote(job.world)
    latest: dict[str, float] = {}
    began, before = time.perf_counter(), job.seconds
    job.train(True)
    for step, waveform in job.windows.batches(job.step, settings.max_steps, job.device):  # (window, sample)
        losses, norm = job.update(step, waveform)
        meter.add(losses, norm)
        done, last, halt = job.step, job.step == settings.max_steps, vote.cast(stop.requested is not None)
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
            if hopeless and hopeless(done, latest):
                stop.requested = "early stopping"
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


def _validate(
    job: Trainer, latest: Mapping[str, float], health: CollapseMonitor | None, display: Display
) -> dict[str, float]:
    """The losses on validation windows, said, and the spread of z and c where somebody looks at it."""
    values = validation(job)
    if values:
        display.say(f"step {job.step}: validation loss {values['valid/loss']:.3f} on unseen speakers")
    return values | (health.examine({**latest, **values}) if health else {})


def _keep_quiet(values: Mapping[str, float], step: int) -> None:
    """What a process records that does not track."""


@torch.no_grad()
def validation(job: Trainer) -> dict[str, float]:
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


def _diagnosis(job: Trainer, folder: Path) -> str:
    bad = [n for n, p in job.model.named_parameters() if not torch.isfinite(p).all()]
    where = f"weights that are not finite: {', '.join(bad[:3]) or 'none yet'}"
    rate = job.optimizer.param_groups[0]["lr"]
    kept = (
        "last.safetensors is the last good checkpoint" if (folder / "last.safetensors").exists() else "none was saved"
    )
    return (
        f"the loss is not a finite number at step {job.step} (learning rate {rate:.2g}, {job.precision}; {where}). "
        "Usually the learning rate is too high: lower optim.lr, lengthen optim.warmup_steps, set "
        f"optim.max_grad_norm=1, or try training.precision=fp32. {folder}: {kept}"
    )
