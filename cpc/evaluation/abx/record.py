"""ABX of a run, put where it belongs: into the run's folder, and onto its run in MLflow."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cpc.evaluation.abx.result import ABXResult
from cpc.evaluation.record import client_of, read_state, target_run
from cpc.tracking import log_now

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

FOLDER = "abx"  # in the run's folder, and of its artifacts in MLflow
_LONGEST_TAG = 4000  # characters; MLflow refuses longer ones


def record(results: Sequence[ABXResult], run: Path) -> None:
    """Results of a run and of its baselines: a file each in runs/NAME/abx; metrics, files and a picture in MLflow.

    Metrics are abx/SPLIT--CORPUS--…/SPEAKER-CONTEXT/FEATURES/error, …/low and …/high. The picture is of the last
    result of the run itself: the error of each pair of phones.
    Raises InputError if MLflow does not know the run; the files are written nevertheless.
    """
    state = read_state(run)
    for result in results:
        result.write(run / FOLDER / result.file_name)
    picture = _draw([result for result in results if _own(result)], run)
    client = client_of(run, state["run_id"], run / FOLDER)
    for result in results:
        _record(client, result, state, run)
    if picture:
        client.log_artifact(state["run_id"], str(picture), picture.parent.name)


def _own(result: ABXResult) -> bool:
    return result.features.startswith("CPC")


def _record(client: "MlflowClient", result: ABXResult, state: dict[str, Any], run: Path) -> None:
    target, name = target_run(client, state, result.features, result.subject, run), result.metric_name
    values = {"error": result.error, "low": result.low, "high": result.high}
    protocol = f"{result.corpus} {result.split}: {result.protocol}"
    tags = {name.replace("/", "."): protocol[:_LONGEST_TAG]}
    log_now(client, target, {f"{name}/{k}": v for k, v in values.items()}, tags)
    client.log_artifact(target, str(run / FOLDER / result.file_name), FOLDER)


def _draw(own: Sequence[ABXResult], run: Path) -> Path | None:
    if not own:
        return None
    from cpc.evaluation.figures.phone_pairs import draw_phone_pairs

    last = own[-1]
    title = f"ABX of {last.features}, {last.speaker} speakers, {last.context} context"
    return draw_phone_pairs(last.pairs, run / "figures" / "abx.png", title)
