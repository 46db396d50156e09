"""Probe a run and put the results where they belong: into its folder, and onto its run in MLflow."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cpc.config import InputError
from cpc.corpus import Corpus
from cpc.evaluation.baselines import probe_run
from cpc.evaluation.compare import BASELINE
from cpc.evaluation.layers import LayerName
from cpc.evaluation.protocol import Protocol
from cpc.evaluation.result import ProbeResult
from cpc.tracking import connect, experiment_id, is_active

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_LONGEST_TAG = 4000  # characters; MLflow refuses longer ones


def probe_and_record(
    task: str,
    run: Path,
    corpus: Path,
    train: str,
    test: str,
    *,
    layers: Sequence[LayerName] = ("z", "c"),
    baselines: bool = True,
    device: str = "cpu",
    progress: bool = True,
    protocols: Sequence[Protocol] = (Protocol(),),
    folds: int = 0,
) -> list[ProbeResult]:
    """Probe the model of a run folder and its baselines; write runs/NAME/probes/*.json and MLflow metrics.

    Raises:
        InputError: `run` is not the folder of a trained run, or the splits cannot be judged.
    """
    read_state(run)
    results = probe_run(
        task,
        run,
        corpus,
        train,
        test,
        layers=layers,
        baselines=baselines,
        cache=run.parent / ".cache",
        device=device,
        progress=progress,
        pretrain_ids=pretrain_ids(run),
        protocols=protocols,
        folds=folds,
    )
    record(results, run)
    return results


def record(results: Sequence[ProbeResult], run: Path) -> None:
    """Results of a run and of its baselines: a file each in runs/NAME/probes, metrics and the file in MLflow.

    Raises:
        InputError: MLflow does not know the run; the files are written nevertheless.
    """
    state = read_state(run)
    for result in results:
        result.write(run / "probes" / result.file_name)
    client = client_of(run, state["run_id"], run / "probes")
    for result in results:
        _record(client, result, state, run, results)


def client_of(run: Path, run_id: str, results: Path) -> "MlflowClient":
    """The client of the store that holds a run's MLflow run.

    Raises:
        InputError: it is not there; what was computed is in `results`.
    """
    client = connect(run.parent)
    if not is_active(client, run_id):
        raise InputError(
            f"run={run}: its MLflow run {run_id} is not in {client.tracking_uri}; the results are in {results}, "
            "to have them in MLflow set MLFLOW_TRACKING_URI to the store that it was trained with"
        )
    return client


def record_table(run: Path, suite: str, values: Mapping[str, float], file: Path) -> None:
    """A suite's table on its run in MLflow: suite/NAME/… metrics, and the file as an artifact."""
    client, state = connect(run.parent), read_state(run)
    _log(client, state["run_id"], {f"suite/{suite}/{name}": (value, 0) for name, value in values.items()}, {})
    client.log_artifact(state["run_id"], str(file), "suites")


def read_state(run: Path) -> dict[str, Any]:
    """What training wrote about its run: the MLflow run's id and experiment."""
    file = run / "run.json"
    if not file.is_file():
        raise InputError(f"run={run}: not the folder of a run (run.json is missing); train one with cpc train")
    state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return state


def pretrain_ids(run: Path) -> list[str]:
    """The utterances that the run's model may have been trained on."""
    data = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["data"]
    corpus = Corpus.open(data["corpus"])
    return [corpus.ids[row] for row in corpus.rows(data["train"])] if data["train"] else corpus.ids


def metric_name(result: ProbeResult) -> str:
    """probe/TASK/TEST_SPLIT/FEATURES: numbers of different protocols or test sets never share a name.

    With few labels it begins with `budget` instead, and the metric's step is the percentage.
    """
    kind = "probe" if result.budget == 100 else "budget"
    return f"{kind}/{result.column}/{result.split_slug}/{result.slug.removeprefix('cpc_')}"


def _record(
    client: "MlflowClient", result: ProbeResult, state: dict[str, Any], run: Path, together: Sequence[ProbeResult]
) -> None:
    own = result.features.startswith("CPC")
    target = state["run_id"] if own else baseline_run(client, state["experiment"], result.features, run.parent)
    name = metric_name(result)
    points = {f"{name}/{k}": (v, round(result.budget) % 100) for k, v in _values(result).items()}
    curve = name.replace("probe/", "budget/", 1)
    if curve != name and any(metric_name(other) == curve for other in together):  # the end of the curve over budgets
        points |= {f"{curve}/{k}": (v, 100) for k, v in _values(result).items()}
    protocol = f"{result.corpus}: {result.train} → {result.test}; {result.protocol}"
    _log(client, target, points, {name.replace("/", "."): protocol[:_LONGEST_TAG]})
    client.log_artifact(target, str(run / "probes" / result.file_name), "probes")


def _values(result: ProbeResult) -> dict[str, float]:
    values = {"accuracy": result.accuracy, "low": result.low, "high": result.high}
    if result.speakers_low is not None and result.speakers_high is not None:
        values |= {"speakers_low": result.speakers_low, "speakers_high": result.speakers_high}
    return values | ({"error_rate": result.error} if result.task == "phone_sequence" else {})


def _log(client: "MlflowClient", target: str, points: Mapping[str, tuple[float, int]], tags: Mapping[str, str]) -> None:
    """Metrics with their steps, and tags, in one call."""
    from mlflow.entities import Metric, RunTag

    now = int(time.time() * 1000)
    metrics = [Metric(name, float(value), now, step) for name, (value, step) in points.items()]
    client.log_batch(target, metrics=metrics, tags=[RunTag(k, v) for k, v in tags.items()])


def baseline_run(client: "MlflowClient", experiment: str, features: str, root: Path) -> str:
    """The run of a baseline in this experiment, made on first use."""
    where = experiment_id(client, experiment, root)
    found = client.search_runs([where], f"tags.kind = '{BASELINE}' and tags.features = '{features}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    run = client.create_run(where, run_name=features, tags={"kind": BASELINE, "features": features})
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)
