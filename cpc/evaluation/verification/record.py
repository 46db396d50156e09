"""Verification by a run, put where it belongs: into the run's folder, and onto its run in MLflow."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpc.evaluation.record import client_of, read_state, target_run
from cpc.evaluation.verification.result import VerificationResult
from cpc.tracking import log_now

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

FOLDER = "verification"  # in the run's folder, and of its artifacts in MLflow; also what its metrics begin with
_LONGEST_TAG = 4000  # characters; MLflow refuses longer ones


def record(results: Sequence[VerificationResult], run: Path) -> None:
    """Results of a run and of its baselines: a file each in runs/NAME/verification; metrics and files in MLflow.

    Metrics are verification/TEST--CORPUS--…/eer/FEATURES/error, …/low and …/high, and …/min_dcf_PRIOR.
    Raises InputError if MLflow does not know the run; the files are written nevertheless.
    """
    state = read_state(run)
    for result in results:
        result.write(run / FOLDER / result.file_name)
    client = client_of(run, state["run_id"], run / FOLDER)
    for result in results:
        _record(client, result, state, run)


def _record(client: "MlflowClient", result: VerificationResult, state: dict[str, Any], run: Path) -> None:
    target, name = target_run(client, state, result.features, result.subject, run), result.metric_name
    values = dict(zip(("error", "low", "high"), result.eer, strict=True))
    values |= {f"min_dcf_{prior}": cost.value for prior, cost in result.min_dcf.items()}
    said = f"{result.corpus} {result.test}: {result.protocol}. {' '.join(result.notes)}"
    tags = {name.replace("/", "."): said[:_LONGEST_TAG]}
    log_now(client, target, {f"{name}/{k}": v for k, v in values.items()}, tags)
    client.log_artifact(target, str(run / FOLDER / result.file_name), FOLDER)
