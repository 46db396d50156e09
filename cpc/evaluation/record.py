"""Probe a run and put the results where they belong: into its folder, and onto its run in MLflow."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from cpc.config import InputError
from cpc.corpus import Corpus
from cpc.evaluation.baselines import probe_run
from cpc.evaluation.compare import BASELINE
from cpc.evaluation.features import LayerName
from cpc.evaluation.result import ProbeResult
from cpc.tracking import connect, experiment_id, is_active, log_now

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


def probe_and_record(
    task: Literal["phone", "speaker"],
    run: Path,
    corpus: Path,
    train: str,
    test: str,
    *,
    layers: Sequence[LayerName] = ("z", "c"),
    baselines: bool = True,
    device: str = "cpu",
    progress: bool = True,
) -> list[ProbeResult]:
    """Probe the model of a run folder and its baselines; write runs/NAME/probes/*.json and MLflow metrics.

    Raises:
        InputError: `run` is not the folder of a trained run, or the splits cannot be judged.
    """
    state = read_state(run)
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
    )
    for result in results:
        if result.features.startswith("CPC"):
            result.write(_file(run, result))
    client = connect(run.parent)
    if not is_active(client, state["run_id"]):
        raise InputError(
            f"run={run}: its MLflow run {state['run_id']} is not in {client.tracking_uri}; the results are in "
            f"{run / 'probes'}, to have them in MLflow set MLFLOW_TRACKING_URI to the store that it was trained with"
        )
    for result in results:
        _record(client, result, state, run)
    return results


def _file(run: Path, result: ProbeResult) -> Path:
    return run / "probes" / f"{result.task}-{Path(result.test).stem}-{result.slug}.json"


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
    """TASK/TEST_SPLIT/FEATURES: numbers from different test sets never share a name."""
    return f"probe/{result.task}/{Path(result.test).stem}/{result.slug.removeprefix('cpc_')}"


def _record(client: "MlflowClient", result: ProbeResult, state: dict[str, Any], run: Path) -> None:
    own = result.features.startswith("CPC")
    target = state["run_id"] if own else _baseline_run(client, state["experiment"], result.features, run.parent)
    name = metric_name(result)
    values = {"accuracy": result.accuracy, "low": result.low, "high": result.high}
    protocol = f"{result.corpus}: {result.train} → {result.test}; {result.protocol}"
    log_now(client, target, {f"{name}/{k}": v for k, v in values.items()}, {name.replace("/", "."): protocol})
    if own:
        client.log_artifact(target, str(_file(run, result)), "probes")


def _baseline_run(client: "MlflowClient", experiment: str, features: str, root: Path) -> str:
    """The run of a baseline in this experiment, made on first use."""
    where = experiment_id(client, experiment, root)
    found = client.search_runs([where], f"tags.kind = '{BASELINE}' and tags.features = '{features}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    run = client.create_run(where, run_name=features, tags={"kind": BASELINE, "features": features})
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)
