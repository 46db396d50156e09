"""Probe a run and put the results where they belong: into its folder, and onto its run in MLflow."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cpc.config import InputError
from cpc.corpus import Corpus
from cpc.evaluation.baselines import probe_run
from cpc.evaluation.compare import BASELINE
from cpc.evaluation.layers import LayerName
from cpc.evaluation.leakage import Unknown
from cpc.evaluation.protocol import Protocol
from cpc.evaluation.result import ProbeResult
from cpc.tracking import connect, experiment_id, is_active, log_now

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
        _record(client, result, state, run)


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
    log_now(client, state["run_id"], {f"suite/{suite}/{name}": value for name, value in values.items()}, {})
    client.log_artifact(state["run_id"], str(file), "suites")


def read_state(run: Path) -> dict[str, Any]:
    """What training wrote about its run: the MLflow run's id and experiment."""
    file = run / "run.json"
    if not file.is_file():
        raise InputError(f"run={run}: not the folder of a run (run.json is missing); train one with cpc train")
    state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return state


def pretrain_ids(run: Path) -> list[str] | Unknown:
    """The utterances that the run's model may have been trained on.

    They are for a note alone: where the corpus was moved, or is no longer what it was, the reason comes instead.
    """
    try:
        data = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["data"]
        corpus = Corpus.open(data["corpus"])
        return [corpus.ids[row] for row in corpus.rows(data["train"])] if data["train"] else corpus.ids
    except (InputError, OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        return Unknown(" ".join(str(error).split()) or type(error).__name__)


def _record(client: "MlflowClient", result: ProbeResult, state: dict[str, Any], run: Path) -> None:
    target, name = target_run(client, state, result.features, result.subject, run), result.metric_name
    protocol = f"{result.corpus}: {result.train} → {result.test}; {result.protocol}"
    values = {f"{name}/{part}": value for part, value in _values(result).items()}
    log_now(client, target, values, {name.replace("/", "."): protocol[:_LONGEST_TAG]})
    client.log_artifact(target, str(run / "probes" / result.file_name), "probes")


def _values(result: ProbeResult) -> dict[str, float]:
    values = {"accuracy": result.accuracy, "low": result.low, "high": result.high}
    if result.speakers_low is not None and result.speakers_high is not None:
        values |= {"speakers_low": result.speakers_low, "speakers_high": result.speakers_high}
    return values | ({"error_rate": result.error} if result.task == "phone_sequence" else {})


def target_run(client: "MlflowClient", state: Mapping[str, Any], features: str, subject: str, run: Path) -> str:
    """The MLflow run that a result belongs to: the run's own, or that of a baseline.

    A baseline has one run in an experiment, made on first use; one whose name does not say all, such as random weights,
    has one for each subject, which is named after the run beside which it was first judged.
    """
    if features.startswith("CPC"):
        return str(state["run_id"])
    where = experiment_id(client, state["experiment"], run.parent)
    query = f"tags.kind = '{BASELINE}' and tags.features = '{features}'"
    for found in client.search_runs([where], query):
        if found.data.tags.get("subject", "") == subject:
            return str(found.info.run_id)
    tags = {"kind": BASELINE, "features": features}
    tags |= {"subject": subject, "beside": run.resolve().name} if subject else {}
    made = client.create_run(where, run_name=features, tags=tags)
    client.set_terminated(made.info.run_id)
    return str(made.info.run_id)
