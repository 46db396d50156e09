"""Training under a real torchrun: killed, restarted, resumed and stopped, two processes leave one honest run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import psutil
import pytest
import torch
from safetensors.torch import load_file

from cpc.models.checkpoint import read_checkpoint

STEPS = 60
pytestmark = pytest.mark.slow


def torchrun(tones: Path, folder: Path, *words: str, restarts: int = 0) -> "subprocess.Popen[str]":
    """`cpc train` on two processes, in a folder of its own."""
    (folder / "recipe.yaml").write_text(
        f"data: {{corpus: {tones}, train: pretrain, valid: valid, window_size: 4000, batch_size: 4}}\n"
        "model: {encoder: {channels: 16, norm: channel}, context: {hidden: 16}}\n"
        "loss: {prediction_steps: 4, negatives: {num_negatives: 16}, gather_distributed: true}\n"
        "optim: {lr: 1e-3}\nexperiment: test\n"
        "training: {device: cpu, precision: fp32, log_every: 10, validate_every: 20, validate_batches: 2, "
        f"checkpoint_every: 5, max_steps: {STEPS}}}\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--max-restarts={restarts}"]
    return subprocess.Popen(
        [*command, "--standalone", "-m", "cpc", "train", *(words or ("recipe.yaml", "--name", "run"))],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_one(launcher: "subprocess.Popen[str]", run: Path, rank: int) -> None:
    """Kill -9 of one rank, once the run has a checkpoint."""
    wait_for_step(run, 5)
    workers = psutil.Process(launcher.pid).children()
    next(worker for worker in workers if worker.environ().get("RANK") == str(rank)).kill()


def wait_for_step(run: Path, step: int) -> None:
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        file = run / "last.safetensors"
        if file.exists() and read_checkpoint(file)[0]["step"] >= step:
            return
        time.sleep(0.02)
    raise TimeoutError(f"step {step} was not reached")


def finish(process: "subprocess.Popen[str]", code: int) -> str:
    """What a job says; it must end, and by this exit status."""
    _, err = process.communicate(timeout=170)
    assert process.returncode == code, err
    return err


def statuses(folder: Path) -> list[str]:
    """The status of every MLflow run."""
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'runs' / 'mlflow.db'}")
    return [run.info.status for run in mlflow.search_runs(experiment_names=["test"], output_format="list")]


def same_bits(a: Path, b: Path) -> bool:
    one, other = load_file(a), load_file(b)
    assert any(name.startswith("optim.") for name in one)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of two processes that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    said = finish(torchrun(tones, folder), 0)
    assert said.count(f"step {STEPS}: validation loss") == 1  # one process speaks
    assert statuses(folder) == ["FINISHED"]
    return folder / "runs" / "run" / "last.safetensors"


def test_a_killed_rank_ends_the_job_and_resuming_gives_the_same_bits(whole: Path, tones: Path, tmp_path: Path) -> None:
    job, run = torchrun(tones, tmp_path), tmp_path / "runs" / "run"
    kill_one(job, run, rank=1)
    said = finish(job, 1)
    assert "cpc: another process of this run has ended" in said
    assert json.loads((run / "run.json").read_text())["status"] == "FAILED"
    finish(torchrun(tones, tmp_path, "--resume", "runs/run"), 0)
    assert same_bits(run / "last.safetensors", whole)
    assert statuses(tmp_path) == ["FINISHED"]


def test_torchrun_starts_again_and_goes_on_with_the_same_run(whole: Path, tones: Path, tmp_path: Path) -> None:
    """Without a name: the second start must find the folder that the first one chose."""
    job, run = torchrun(tones, tmp_path, "recipe.yaml", restarts=1), tmp_path / "runs" / "test-001"
    kill_one(job, run, rank=0)
    assert "resumed at step" in finish(job, 0)
    assert [path.name for path in (tmp_path / "runs").glob("test-*")] == ["test-001"]
    assert same_bits(run / "last.safetensors", whole)
    assert statuses(tmp_path) == ["FINISHED"]


def test_a_signal_saves_and_ends_all_processes(tones: Path, tmp_path: Path) -> None:
    job, run = (
        torchrun(tones, tmp_path, "recipe.yaml", "--name", "run", "training.max_steps=100000"),
        tmp_path / "runs/run",
    )
    wait_for_step(run, 5)
    job.send_signal(signal.SIGTERM)
    out, _ = job.communicate(timeout=120)
    assert job.returncode != 0
    assert "resume with: cpc train --resume runs/run" in out
    state = json.loads((run / "run.json").read_text())
    assert (state["status"], state["step"]) == ("KILLED", read_checkpoint(run / "last.safetensors")[0]["step"])
    assert statuses(tmp_path) == ["KILLED"]
