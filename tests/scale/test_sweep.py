"""A sweep: planned before anything is trained, recorded under one parent, and never done twice."""

from pathlib import Path

import pytest

from cpc.config import InputError
from cpc.scale.sweep import plan, sweep
from cpc.tracking.mlflow import connect

RECIPE = """
base: classic
data: {corpus: CORPUS, train: pretrain, valid: valid, batch_size: 4, window_size: 5120}
model: {encoder: {channels: 16}, context: {hidden: 16}}
loss: {prediction_steps: 2, negatives: {num_negatives: 8}}
training: {max_steps: 3, log_every: 1}
"""


@pytest.fixture
def folder(tmp_path: Path, tones: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("CORPUS", str(tones)))
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "steps.yaml"
    path.write_text(f"recipe: recipe.yaml\nexperiment: table\n{text}")
    return path


def test_a_grid_is_every_combination_and_a_seed_each(folder: Path) -> None:
    file = write(folder, "grid: {loss.prediction_steps: [2, 4], optim.lr: [1e-3]}\nseeds: [0, 7]")
    _, planned = plan(file, ["training.max_steps=5"])
    names = ["steps-prediction_steps2-lr1e-3-seed0", "steps-prediction_steps2-lr1e-3-seed7"]
    names += ["steps-prediction_steps4-lr1e-3-seed0", "steps-prediction_steps4-lr1e-3-seed7"]
    assert [name for name, _ in planned] == names
    assert [(r.loss.prediction_steps, r.seed, r.optim.lr, r.training.max_steps) for _, r in planned] == [
        (steps, seed, 1e-3, 5) for steps in (2, 4) for seed in (0, 7)
    ]
    assert {r.experiment for _, r in planned} == {"table"}


def test_each_of_several_recipes_is_a_run(folder: Path) -> None:
    (folder / "other.yaml").write_text("base: recipe.yaml\nloss: {kind: instance, views: {crop: null}}")
    file = folder / "family.yaml"
    file.write_text("recipes: [recipe.yaml, other.yaml]\nexperiment: table\nsettings: [training.max_steps=2]")
    _, planned = plan(file)
    assert [(name, r.loss.kind, r.training.max_steps) for name, r in planned] == [
        ("family-recipe", "cpc", 2),
        ("family-other", "instance", 2),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "give either runs"),
        ("runs: {a: []}\ngrid: {loss.prediction_steps: [2]}", "give either runs"),
        ("recipes: [recipe.yaml]", "recipe=recipe.yaml: must name the recipe of runs or grid; drop it with recipes"),
        ("runs: {a: [loss.prediction_stepz=2]}", "did you mean loss.prediction_steps"),
        ("runs: {a: []}\nprobes: [{task: phones, train: a, test: b}]", "probes.0.task=phones"),
        ("runz: {a: []}", "did you mean runs"),
    ],
)
def test_a_mistake_is_found_before_anything_is_trained(folder: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sweep(write(folder, text))
    assert not (folder / "runs").exists() or not list((folder / "runs").glob("steps-*"))


def test_runs_are_children_of_one_parent_and_are_not_done_again(folder: Path) -> None:
    file = write(folder, "runs: {near: [loss.prediction_steps=1], far: [loss.prediction_steps=3]}\nsettings: [seed=3]")
    said: list[str] = []
    _, done, failed = sweep(file, say=said.append)
    assert [run.path.name for run in done] == ["steps-near", "steps-far"]
    assert said == ["sweep steps: run 1 of 2, steps-near", "sweep steps: run 2 of 2, steps-far"]
    assert not failed
    client = connect()
    parents = {client.get_run(run.run_id).data.tags["mlflow.parentRunId"] for run in done}
    assert len(parents) == 1
    parent = client.get_run(parents.pop())
    assert (parent.info.run_name, parent.info.status, parent.data.tags["kind"]) == ("steps", "FINISHED", "sweep")
    weights = [run.checkpoint.read_bytes() for run in done]
    _, again, _ = sweep(file)
    assert [(run.run_id, run.checkpoint.read_bytes()) for run in again] == [
        (run.run_id, weight) for run, weight in zip(done, weights, strict=True)
    ]
    experiment = client.get_experiment_by_name("table")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 3


def test_a_run_that_diverges_is_reported_and_the_others_go_on(folder: Path) -> None:
    file = write(folder, "runs: {wild: [optim.lr=1e30, optim.warmup_steps=0, training.max_steps=30], calm: []}")
    _, done, failed = sweep(file)
    assert [run.path.name for run in done] == ["steps-calm"]
    assert [name for name, _ in failed] == ["steps-wild"]
    assert "not a finite number" in failed[0].reason


def test_a_folder_with_another_run_is_reported_and_the_others_go_on(folder: Path) -> None:
    sweep(write(folder, "runs: {near: [loss.prediction_steps=1]}"))
    _, done, failed = sweep(write(folder, "runs: {near: [loss.prediction_steps=2], far: [loss.prediction_steps=3]}"))
    assert [run.path.name for run in done] == ["steps-far"]
    assert [name for name, _ in failed] == ["steps-near"]
    assert "exists with other settings (loss.prediction_steps 1 → 2)" in failed[0].reason


def test_asha_stops_what_is_behind_and_the_same_call_leaves_it_alone(folder: Path) -> None:
    text = "runs: {good: [optim.lr=1e-2], bad: [optim.lr=1e-12]}\nasha: {min_steps: 4, reduction_factor: 2}"
    settings = ["training.max_steps=20", "training.validate_every=4", "optim.warmup_steps=0"]
    file, said = write(folder, text), list[str]()
    _, done, failed = sweep(file, settings, say=said.append)
    assert [run.path.name for run in done] == ["steps-good"]
    assert not failed
    assert "steps-bad: stopped early, its validation loss is behind the others'" in said
    rungs = sorted(path.relative_to("runs/.asha/steps").as_posix() for path in Path("runs/.asha").rglob("*.json"))
    assert rungs == ["16/steps-good.json", "4/steps-bad.json", "4/steps-good.json", "8/steps-good.json"]
    before = Path("runs/steps-bad/last.safetensors").read_bytes()
    assert [run.path.name for run in sweep(file, settings)[1]] == ["steps-good"]
    assert Path("runs/steps-bad/last.safetensors").read_bytes() == before


def test_asha_needs_a_validation_loss(folder: Path) -> None:
    without = "settings: [data.valid=null, data.val_fraction=0, training.validate_every=1]"
    file = write(folder, f"runs: {{a: []}}\nasha: {{min_steps: 1}}\n{without}")
    with pytest.raises(InputError, match="asha: run steps-a has no validation loss to be compared by"):
        sweep(file)
