"""The tracking store: made once by many processes, made again after a kill, and never what ends a training."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cpc
from cpc.config import InputError
from cpc.tracking.mlflow import JOURNAL, connect, experiment_id
from cpc.training.run import train
from tests.tiny import SHORT, tiny

OPEN = """
import sys
from pathlib import Path
from cpc.tracking.mlflow import connect, experiment_id
client = connect(Path("runs"))
where = experiment_id(client, "same", Path("runs"))
run = client.create_run(where, run_name=sys.argv[1]).info.run_id
client.log_metric(run, "loss", 1.0)
client.set_terminated(run)
"""


def at_once(folder: Path, count: int, *command: str) -> list[subprocess.CompletedProcess[str]]:
    """So many processes, started at the same moment; the last word of each is its number."""
    line = [sys.executable, *command]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    started = [
        subprocess.Popen(
            [*line, str(n)], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for n in range(count)
    ]
    ended = [(job, *job.communicate(timeout=300)) for job in started]
    return [subprocess.CompletedProcess(line, job.returncode, out, err) for job, out, err in ended]


def check_all_have_a_run(folder: Path, count: int) -> None:
    done = at_once(folder, count, "-c", OPEN)
    assert [one.returncode for one in done] == [0] * count, "\n".join(one.stderr for one in done)
    client = connect(folder / "runs")
    found = client.search_runs([experiment_id(client, "same", folder / "runs")])
    assert sorted(run.info.run_name for run in found) == [str(n) for n in range(count)]
    kind = client.get_experiment_by_name("same").tags["mlflow.experimentKind"]
    assert kind == "custom_model_development"
    assert all(run.data.metrics == {"loss": 1.0} for run in found)


def test_eight_processes_open_a_fresh_store(tmp_path: Path) -> None:
    check_all_have_a_run(tmp_path, 8)


@pytest.mark.slow
def test_eight_processes_open_a_fresh_store_ten_times(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / str(number)).mkdir()
        check_all_have_a_run(tmp_path / str(number), 8)


@pytest.mark.slow
def test_four_trainings_begin_at_the_same_moment(tones: Path, tmp_path: Path) -> None:
    settings = ["training.max_steps=2", "training.precision=fp32", "data.window_size=4000", "data.batch_size=4"]
    settings += [f"data.corpus={tones}", "model.encoder.channels=16", "model.context.hidden=16", "--name"]
    done = at_once(tmp_path, 4, "-m", "cpc", "train", "small", *settings)
    assert [one.returncode for one in done] == [0] * 4, "\n".join(one.stderr for one in done)
    client = connect(tmp_path / "runs")
    found = client.search_runs([experiment_id(client, "cpc", tmp_path / "runs")])
    assert sorted((run.info.run_name, run.info.status) for run in found) == [(str(n), "FINISHED") for n in range(4)]


def test_half_a_store_without_a_run_is_made_again(tmp_path: Path) -> None:
    """What alembic leaves when it is killed: some tables, no version, and a table on its way."""
    with sqlite3.connect(tmp_path / "mlflow.db") as half:
        half.execute("CREATE TABLE runs (run_uuid TEXT)")
        half.execute("CREATE TABLE _alembic_tmp_latest_metrics (key TEXT)")
    client = connect(tmp_path)
    assert experiment_id(client, "new", tmp_path)


def test_half_a_store_with_runs_is_said_and_left(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "mlflow.db") as half:
        half.execute("CREATE TABLE runs (run_uuid TEXT)")
        half.execute("INSERT INTO runs VALUES ('a')")
    before = (tmp_path / "mlflow.db").read_bytes()
    with pytest.raises(InputError, match=r"mlflow.db: is only half made or damaged, and holds 1 runs; .*db upgrade"):
        connect(tmp_path)
    assert (tmp_path / "mlflow.db").read_bytes() == before


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_store_that_the_next_process_uses(tmp_path: Path) -> None:
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        job = subprocess.Popen([sys.executable, "-c", OPEN, "0"], cwd=folder)
        time.sleep(1.5 + 0.25 * number)
        os.kill(job.pid, signal.SIGKILL)
        job.wait()
        done = at_once(folder, 1, "-c", OPEN)
        assert done[0].returncode == 0, done[0].stderr


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracking server that nobody runs, asked once."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.mark.usefixtures("away")
def test_training_goes_on_without_a_store_and_tells_it_later(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tiny(tones, training=SHORT), name="run", root=tmp_path, progress=False)
    assert run.status == "FINISHED"
    assert run.run_id == ""
    said = capsys.readouterr().err
    assert said.count("the tracking store cannot be used") == 1
    assert "cpc train --resume" in said
    kinds = [json.loads(line)["kind"] for line in (run.path / JOURNAL).read_text().splitlines()]
    assert kinds[-1] == "status"
    assert {"metrics", "tags", "corpus", "artifact", "model"} <= set(kinds)

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    again = cpc.resume(run.path, progress=False)
    client = connect(tmp_path)
    told = client.get_run(again.run_id)
    assert told.info.status == "FINISHED"
    assert told.data.params["data.corpus"] == str(tones)
    assert [point.step for point in client.get_metric_history(again.run_id, "train/loss")] == [2, 4, 6]
    assert told.data.metrics["train/loss"] == pytest.approx(run.metrics["train/loss"])
    assert {file.path for file in client.list_artifacts(again.run_id)} >= {"config.yaml", "curves.png"}
    assert told.inputs.dataset_inputs[0].dataset.name == tones.name
    assert not (run.path / JOURNAL).exists()
    assert json.loads((run.path / "run.json").read_text())["run_id"] == again.run_id


def test_what_is_told_while_the_store_is_gone_is_told_when_it_is_back(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cpc.tracking import mlflow as tracking

    tracker = tracking.Tracker("test", tmp_path / "run", {"a": 1}, say=lambda line: None)
    (tmp_path / "run").mkdir()
    tracker.metrics({"train/loss": 3.0}, 1)
    tracker.flush()
    write, broken = tracking.Tracker._write, True

    def sometimes(self: tracking.Tracker, event: dict[str, object]) -> None:
        if broken:
            raise OSError("the server is gone")
        write(self, event)

    monkeypatch.setattr(tracking.Tracker, "_write", sometimes)
    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.0)
    tracker.metrics({"train/loss": 2.0}, 2)
    tracker.metrics({"train/loss": 1.0}, 3)
    tracker.flush()
    assert tracker.is_away
    broken = False
    tracker.metrics({"train/loss": 0.5}, 4)
    tracker.flush()
    assert not tracker.is_away
    assert tracker.close("FINISHED")
    points = connect(tmp_path).get_metric_history(tracker.run_id, "train/loss")
    assert [(point.step, point.value) for point in points] == [(1, 3.0), (2, 2.0), (3, 1.0), (4, 0.5)]
    assert connect(tmp_path).get_run(tracker.run_id).info.status == "FINISHED"


def test_mlflow_prints_no_traceback_of_its_own_when_the_store_is_lost(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from cpc.tracking import mlflow as tracking

    said: list[str] = []
    tracker = tracking.Tracker("test", tmp_path / "run", {"a": 1}, say=said.append)
    (tmp_path / "run").mkdir()
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        store.execute("ALTER TABLE metrics RENAME TO away")
    tracker.metrics({"train/loss": 3.0}, 1)
    tracker.flush()
    assert tracker.is_away
    assert len(said) == 1
    assert "Traceback" not in capfd.readouterr().err
    with sqlite3.connect(tmp_path / "mlflow.db") as store:
        store.execute("ALTER TABLE away RENAME TO metrics")
    assert tracker.close("FINISHED")
