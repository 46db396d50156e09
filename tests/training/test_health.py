"""Health: curves of the spread at every validation, a warning and a tag where it collapses, and training untouched."""

import copy
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

import cpc
from cpc.data.sampler import to_float
from cpc.tracking.mlflow import connect
from cpc.training.collapse import PATIENCE, CollapseMonitor, measure
from cpc.training.recipe import Recipe
from cpc.training.trainer import Trainer
from tests.tiny import tiny


def recipe(corpus: Path, *overrides: str) -> Recipe:
    return tiny(corpus, *overrides, optim={"warmup_steps": 10})


@pytest.fixture
def job(tones: Path) -> Trainer:
    return Trainer.start(recipe(tones))


class Heard:
    """What was said and tagged."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.tags: dict[str, str] = {}

    def tag(self, values: Mapping[str, str]) -> None:
        self.tags.update(values)


class Watched:
    """A job, the monitor of its run, and what it says and tags."""

    def __init__(self, job: Trainer) -> None:
        self.job, heard = job, Heard()
        self.heard = heard
        self.monitor = CollapseMonitor(job.recipe.optim.warmup_steps, heard.lines.append, heard.tag)

    def examine(self, step: int, latest: Mapping[str, float]) -> dict[str, float]:
        return self.monitor.examine(step, self.job.model, self.job.criterion, windows(self.job), latest)


def windows(job: Trainer) -> torch.Tensor:
    assert job.valid
    return to_float(job.valid.read(0))


def collapse(job: Trainer) -> None:
    with torch.no_grad():
        for parameter in job.model.parameters():
            parameter.zero_()


def test_a_healthy_job_has_curves_and_no_warning(job: Trainer) -> None:
    watched = Watched(job)
    heard, values = watched.heard, watched.examine(20, {})
    assert {"spread/alignment", "spread/z/uniformity", "spread/c/effective_rank"} <= values.keys()
    assert 0 < values["spread/alignment"] < 4
    assert 1 < values["spread/c/effective_rank"] <= 16
    assert not heard.lines
    assert not heard.tags


def test_collapse_is_said_once_tagged_and_its_end_too(job: Trainer) -> None:
    watched, before = Watched(job), copy.deepcopy(job.model.state_dict())
    heard = watched.heard
    collapse(job)
    watched.examine(10, {})
    assert not heard.lines  # still warming up
    for step in (20, 30):
        watched.examine(step, {})
    assert len(heard.lines) == 2  # z and c, once each
    assert heard.lines[0].startswith("warning, step 20: z has collapsed to one vector")
    assert heard.tags["collapse"].startswith("step 20: z has collapsed")
    job.model.load_state_dict(before)
    watched.examine(40, {})
    assert heard.tags["collapse"] == "step 40: over"


def test_a_loss_at_chance_is_said_after_some_patience(job: Trainer) -> None:
    watched = Watched(job)
    heard, latest = watched.heard, {"train/loss": 2.829, "train/ceiling": 2.83}
    for step in (PATIENCE - 1, PATIENCE, PATIENCE + 1):
        watched.examine(step, latest)
    assert [line.split(":")[0] for line in heard.lines] == [f"warning, step {PATIENCE}"]
    assert "at chance" in heard.lines[0]
    assert "try a lower optim.lr, a longer optim.warmup_steps" in heard.lines[0]
    assert heard.tags["collapse"].startswith(f"step {PATIENCE}: the loss is at chance")


def test_chance_is_not_said_of_a_warm_up(tones: Path) -> None:
    watched = Watched(Trainer.start(recipe(tones, "optim.warmup_steps=80")))
    for step in (79, 80):
        watched.examine(step, {"train/loss": 2.829, "train/ceiling": 2.83})
    assert [line.split(":")[0] for line in watched.heard.lines if "chance" in line] == ["warning, step 80"]


def test_looking_changes_neither_weights_nor_randomness_nor_mode(job: Trainer) -> None:
    before, state = copy.deepcopy(job.model.state_dict()), torch.get_rng_state()
    job.model.train()
    first, again = (measure(job.model, job.criterion, windows(job))[0] for _ in range(2))
    assert first == again
    assert torch.equal(torch.get_rng_state(), state)
    assert job.model.training
    assert all(torch.equal(before[name], value) for name, value in job.model.state_dict().items())


def test_training_draws_the_curves_even_where_nothing_is_held_out(tones: Path, tmp_path: Path) -> None:
    settings = ("training.max_steps=4", "training.validate_every=2", "data.valid=null", "data.val_fraction=0")
    run = cpc.train(recipe(tones, *settings), name="run", root=tmp_path, progress=False)
    assert "valid/loss" not in run.metrics
    points = connect(tmp_path).get_metric_history(run.run_id, "spread/c/effective_rank")
    assert [point.step for point in points] == [2, 4]
    assert points[-1].value == run.metrics["spread/c/effective_rank"]
