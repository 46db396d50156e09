"""Training: it learns, it resumes bit for bit, it stops honestly, and it says what went wrong."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import cpc
from cpc.training.metrics import NotFinite
from cpc.training.recipe import Recipe
from tests.tiny import tiny

STEPS = 60


def recipe(corpus: Path, *overrides: str) -> Recipe:
    every = {"log_every": 10, "validate_every": 20, "validate_batches": 2, "checkpoint_every": 10}
    training = {"max_steps": STEPS, "precision": "fp32", **every}
    return tiny(corpus, *overrides, optim={"lr": 1e-3}, experiment="test", training=training)


@pytest.fixture(scope="module")
def whole(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> cpc.Run:
    """A run that nothing interrupts."""
    return cpc.train(recipe(tones), name="whole", root=tmp_path_factory.mktemp("whole"), progress=False)


def same_weights(a: Path, b: Path) -> bool:
    one, other = load_file(a), load_file(b)
    assert any(name.startswith("optim.") for name in one)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_it_learns_and_leaves_a_model(whole: cpc.Run, tones: Path) -> None:
    assert whole.status == "FINISHED"
    assert whole.metrics["train/loss"] < whole.metrics["train/ceiling"] - 0.04  # ln(17) at chance
    model = cpc.load(whole.checkpoint)
    by_folder = cpc.load(whole.path)
    wave = torch.randn(2, 5000)
    assert torch.equal(model(wave).c, by_folder(wave).c)
    assert model.config == recipe(tones).model


def test_mlflow_knows_everything(whole: cpc.Run) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{whole.path.parent / 'mlflow.db'}")
    client = mlflow.MlflowClient()
    run = client.get_run(whole.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["optim.lr"] == "0.001"
    assert run.data.params["loss.negatives.num_negatives"] == "16"
    assert {"device", "git_commit", "version.torch", "corpus_digest"} <= run.data.tags.keys()
    points = client.get_metric_history(whole.run_id, "train/loss")
    assert [p.step for p in points] == [10, 20, 30, 40, 50, 60]
    assert [p.step for p in client.get_metric_history(whole.run_id, "valid/loss")] == [20, 40, 60]
    assert len(client.get_metric_history(whole.run_id, "train/accuracy_k/04")) == 6
    assert {f.path for f in client.list_artifacts(whole.run_id)} >= {"config.yaml", "curves.png"}
    assert run.inputs.dataset_inputs[0].dataset.name == "packed"


def test_mlflow_serves_z_and_c(whole: cpc.Run) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{whole.path.parent / 'mlflow.db'}")
    served = mlflow.pyfunc.load_model(f"runs:/{whole.run_id}/model")
    wave = np.random.default_rng(0).normal(0, 0.1, (2, 4000)).astype(np.float32)
    given = served.predict(wave)
    expected = cpc.load(whole.checkpoint)(torch.from_numpy(wave))
    np.testing.assert_allclose(given["z"], expected.z.detach().numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(given["c"], expected.c.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_stopped_and_resumed_equals_uninterrupted(whole: cpc.Run, tones: Path, tmp_path: Path) -> None:
    """17 steps, then the rest: bit for bit the same weights and optimizer state, and one MLflow run."""
    part = cpc.train(recipe(tones, "training.max_steps=17"), name="part", root=tmp_path, progress=False)
    assert part.steps == 17
    rest = cpc.resume(part.path, [f"training.max_steps={STEPS}"], progress=False)
    assert rest.run_id == part.run_id
    assert same_weights(rest.checkpoint, whole.checkpoint)


def test_a_run_with_muon_resumes_bit_for_bit(tones: Path, tmp_path: Path) -> None:
    muon = ("optim.kind=muon", "optim.weight_decay=0.01", "training.max_steps=20")
    whole = cpc.train(recipe(tones, *muon), name="whole", root=tmp_path, progress=False)
    part = cpc.train(recipe(tones, *muon, "training.max_steps=7"), name="part", root=tmp_path, progress=False)
    rest = cpc.resume(part.path, ["training.max_steps=20"], progress=False)
    assert any(name.endswith("momentum_buffer") for name in load_file(rest.checkpoint))
    assert same_weights(rest.checkpoint, whole.checkpoint)


def test_same_seed_same_weights_other_seed_other_weights(whole: cpc.Run, tones: Path, tmp_path: Path) -> None:
    again = cpc.train(recipe(tones), name="again", root=tmp_path, progress=False)
    other = cpc.train(recipe(tones, "seed=1"), name="other", root=tmp_path, progress=False)
    assert same_weights(again.checkpoint, whole.checkpoint)
    assert not same_weights(other.checkpoint, whole.checkpoint)


def test_a_finished_run_is_given_back_and_another_recipe_is_refused(whole: cpc.Run, tones: Path) -> None:
    before = whole.checkpoint.stat().st_mtime_ns
    again = cpc.train(recipe(tones), name="whole", root=whole.path.parent, progress=False)
    assert again == whole
    assert whole.checkpoint.stat().st_mtime_ns == before
    with pytest.raises(cpc.InputError, match=r"name=whole: .* other settings \(optim.lr 0.001 → 0.1\)"):
        cpc.train(recipe(tones, "optim.lr=0.1"), name="whole", root=whole.path.parent, progress=False)
    with pytest.raises(cpc.InputError, match="keeps its settings"):
        cpc.resume(whole.path, ["optim.lr=0.1"])


def test_a_run_from_before_a_setting_existed_has_its_default(whole: cpc.Run, tones: Path) -> None:
    config = whole.path / "config.yaml"
    text = config.read_text()
    assert "  gradient_accumulation_steps: 1\n" in text
    config.write_text(text.replace("  gradient_accumulation_steps: 1\n", ""))
    assert cpc.train(recipe(tones), name="whole", root=whole.path.parent, progress=False) == whole
    config.write_text(text)


def test_best_is_a_copy_that_training_leaves_alone(tones: Path, tmp_path: Path) -> None:
    """The learning rate explodes half way: the best checkpoint stays what it was."""
    good = cpc.train(recipe(tones, "training.max_steps=20"), name="run", root=tmp_path, progress=False)
    best = (good.path / "best.safetensors").read_bytes()
    config = good.path / "config.yaml"
    config.write_text(config.read_text().replace("lr: 0.001", "lr: 3.0"))
    worse = cpc.resume(good.path, [f"training.max_steps={STEPS}"], progress=False)
    assert worse.metrics["valid/loss"] > good.metrics["valid/loss"]
    assert (good.path / "best.safetensors").read_bytes() == best


def test_nan_stops_with_a_diagnosis_and_keeps_the_last_good_checkpoint(tones: Path, tmp_path: Path) -> None:
    run = cpc.train(recipe(tones, "training.max_steps=10"), name="run", root=tmp_path, progress=False)
    kept = run.checkpoint.read_bytes()
    config = run.path / "config.yaml"
    config.write_text(config.read_text().replace("lr: 0.001", "lr: 1.0e+30"))
    with pytest.raises(NotFinite, match=r"not a finite number at step 20 .*lower optim.lr.*last good checkpoint"):
        cpc.resume(run.path, [f"training.max_steps={STEPS}"], progress=False)
    assert run.checkpoint.read_bytes() == kept
    state = json.loads((run.path / "run.json").read_text())
    assert state["status"] == "FAILED"
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert mlflow.get_run(run.run_id).info.status == "FAILED"


def test_a_changed_corpus_is_refused_on_resume(tones: Path, tmp_path: Path) -> None:
    run = cpc.train(recipe(tones, "training.max_steps=5"), name="run", root=tmp_path, progress=False)
    moved = tmp_path / "other"
    moved.mkdir()
    for item in tones.iterdir():
        (moved / item.name).symlink_to(item)
    (moved / "corpus.json").unlink()
    info = json.loads((tones / "corpus.json").read_text())
    (moved / "corpus.json").write_text(json.dumps(info | {"digest": "0" * 64}))
    config = run.path / "config.yaml"
    config.write_text(config.read_text().replace(str(tones), str(moved)))
    with pytest.raises(cpc.InputError, match="its contents changed"):
        cpc.resume(run.path, ["training.max_steps=9"], progress=False)


def start(tones: Path, folder: Path, steps: int, *words: str) -> "subprocess.Popen[str]":
    """`cpc train` in a process of its own."""
    (folder / "recipe.yaml").write_text(
        f"data: {{corpus: {tones}, train: pretrain, valid: valid, window_size: 4000, batch_size: 4}}\n"
        "model: {encoder: {channels: 16, norm: channel}, context: {hidden: 16}}\n"
        "loss: {prediction_steps: 4, negatives: {num_negatives: 16}}\n"
        "optim: {lr: 1e-3}\nexperiment: test\n"
        f"training: {{max_steps: {steps}, precision: fp32, log_every: 10, validate_every: 20, validate_batches: 2, "
        "checkpoint_every: 10}\n"
    )
    command = [sys.executable, "-m", "cpc", "train", "recipe.yaml", "--name", "run", *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_step(run: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        file = run / "last.safetensors"
        if file.exists() and cpc.models.checkpoint.read_checkpoint(file)[0]["step"] >= step:
            return
        time.sleep(0.02)
    raise TimeoutError(f"step {step} was not reached")


@pytest.mark.parametrize("kill_at", [10, 30])
def test_kill_9_and_the_same_command_again_equals_uninterrupted(tones: Path, tmp_path: Path, kill_at: int) -> None:
    steps = 200
    process = start(tones, tmp_path, steps)
    wait_for_step(tmp_path / "runs" / "run", kill_at)
    process.kill()
    process.wait()
    again = start(tones, tmp_path, steps)
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    assert "resumed at step" in err
    whole = cpc.train(cpc.load_config("recipe.yaml"), name="whole", root=tmp_path / "other", progress=False)
    assert same_weights(tmp_path / "runs" / "run" / "last.safetensors", whole.checkpoint)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    runs = mlflow.search_runs(experiment_names=["test"], output_format="list")
    assert [run.info.status for run in runs] == ["FINISHED"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_says_how_to_go_on_and_is_recorded(tones: Path, tmp_path: Path, number: signal.Signals) -> None:
    process = start(tones, tmp_path, 100_000)
    wait_for_step(tmp_path / "runs" / "run", 10)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "resume with: cpc train --resume runs/run" in out
    assert "Traceback" not in err
    state = json.loads((tmp_path / "runs" / "run" / "run.json").read_text())
    assert state["status"] == "KILLED"
    assert (
        state["step"]
        == cpc.models.checkpoint.read_checkpoint(tmp_path / "runs" / "run" / "last.safetensors")[0]["step"]
    )
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    assert mlflow.get_run(state["run_id"]).info.status == "KILLED"


def test_two_processes_cannot_train_one_run(tones: Path, tmp_path: Path) -> None:
    process = start(tones, tmp_path, 100_000)
    try:
        wait_for_step(tmp_path / "runs" / "run", 10)
        with pytest.raises(cpc.InputError, match="another process is training this run"):
            cpc.train(cpc.load_config("recipe.yaml"), name="run", progress=False)
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_compiled_encoder_trains_the_same(tones: Path, tmp_path: Path) -> None:
    """torch.compile changes rounding at most; weights keep their names, so the checkpoint loads as any other.

    In a process of its own: the checks of shapes that these tests add are nothing that a compiler could follow.
    """
    losses = []
    for flag in ("false", "true"):
        folder = tmp_path / flag
        folder.mkdir()
        _, err = start(tones, folder, 10, f"training.compile={flag}").communicate(timeout=600)
        losses.append(json.loads((folder / "runs" / "run" / "run.json").read_text())["metrics"]["train/loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4), err
    names = [load_file(tmp_path / flag / "runs" / "run" / "last.safetensors").keys() for flag in ("false", "true")]
    assert names[0] == names[1]
