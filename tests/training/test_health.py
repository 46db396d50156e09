"""Health: curves of the spread at every validation, a warning and a tag where it collapses, and training untouched."""

import copy
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

import cpc
from cpc.tracking.mlflow import connect
from cpc.training.collapse import PATIENCE, CollapseMonitor, measure
from cpc.training.job import Trainer
from cpc.training.recipe import Recipe
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


def collapse(job: Trainer) -> None:
    with torch.no_grad():
        for parameter in job.model.parameters():
            parameter.zero_()


def test_a_healthy_job_has_curves_and_no_warning(job: Trainer) -> None:
    heard = Heard()
    job.step = 20
    values = CollapseMonitor(job, heard.lines.append, heard.tag).examine({})
    assert {"spread/alignment", "spread/z/uniformity", "spread/c/effective_rank"} <= values.keys()
    assert 0 < values["spread/alignment"] < 4
    assert 1 < values["spread/c/effective_rank"] <= 16
    assert not heard.lines
    assert not heard.tags


def test_collapse_is_said_once_tagged_and_its_end_too(job: Trainer) -> None:
    heard, before = Heard(), copy.deepcopy(job.model.state_dict())
    health = CollapseMonitor(job, heard.lines.append, heard.tag)
    collapse(job)
    job.step = 10
    health.examine({})
    assert not heard.lines  # still warming up
    for job.step in (20, 30):
        health.examine({})
    assert len(heard.lines) == 2  # z and c, once each
    assert heard.lines[0].startswith("warning, step 20: z has collapsed to one vector")
    assert heard.tags["collapse"].startswith("step 20: z has collapsed")
    job.model.load_state_dict(before)
    job.step = 40
    health.examine({})
    assert heard.tags["collapse"] == "step 40: over"


def test_a_loss_at_chance_is_said_after_some_patience(job: Trainer) -> None:
    heard = Heard()
    health = CollapseMonitor(job, heard.lines.append, heard.tag)
    latest = {"train/loss": 2.829, "train/ceiling": 2.83}
    for job.step in (PATIENCE - 1, PATIENCE, PATIENCE + 1):
        health.examine(latest)
    assert [line.split(":")[0] for line in heard.lines] == [f"warning, step {PATIENCE}"]
    assert "at chance" in heard.lines[0]
    assert "try a lower optim.lr, a longer optim.warmup_steps" in heard.lines[0]
    assert heard.tags["collapse"].startswith(f"step {PATIENCE}: the loss is at chance")


def test_chance_is_not_said_of_a_warm_up(tones: Path) -> None:
    heard, job = Heard(), Trainer.start(recipe(tones, "optim.warmup_steps=80"))
    health = CollapseMonitor(job, heard.lines.append, heard.tag)
    for job.step in (79, 80):
        health.examine({"train/loss": 2.829, "train/ceiling": 2.83})
    assert [line.split(":")[0] for line in heard.lines if "chance" in line] == ["warning, step 80"]


def test_looking_changes_neither_weights_nor_randomness_nor_mode(job: Trainer) -> None:
    before, state = copy.deepcopy(job.model.state_dict()), torch.get_rng_state()
    job.model.train()
    first, again = measure(job)[0], measure(job)[0]
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
