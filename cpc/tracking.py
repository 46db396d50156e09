"""MLflow: where runs are kept, and one run's settings, curves, corpus, artifacts and honest status.

The only importer of mlflow, and only when something is tracked or read. Training writes through `Tracker`;
evaluation adds its results to the run of the model that it judged.
"""

import io
import logging
import os
import time
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cpc.config import InputError
from cpc.corpus import Corpus
from cpc.version import git_commit, versions

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

Status = Literal["FINISHED", "FAILED", "KILLED"]
RUNS = Path("runs")
SYSTEM_SECONDS = 10  # between two readings of processor, memory and GPU
_CHOSEN_HERE = {""}  # MLflow keeps its store in MLFLOW_TRACKING_URI: these values are ours, not the user's


def connect(root: Path = RUNS) -> "MlflowClient":
    """A client of the store: MLFLOW_TRACKING_URI if set, else SQLite in `root`."""
    import mlflow

    for name in ("mlflow", "alembic"):  # after the import, which sets them up: their news are of no use to a user
        logging.getLogger(name).setLevel(logging.ERROR)
    if os.environ.get("MLFLOW_TRACKING_URI", "") in _CHOSEN_HERE:
        root.mkdir(parents=True, exist_ok=True)
        _CHOSEN_HERE.add(_local_store(root))
        mlflow.set_tracking_uri(_local_store(root))
    return mlflow.MlflowClient()


def experiment_id(client: "MlflowClient", name: str, root: Path = RUNS) -> str:
    """The experiment's id, made on first use; artifacts of the local store lie in `root`."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage != "active":
            raise InputError(f"experiment={name}: was deleted in MLflow; restore it there or use another name")
        return str(found.experiment_id)
    local = client.tracking_uri == _local_store(root)
    place = (root / "artifacts" / name).resolve().as_uri() if local else None
    return str(client.create_experiment(name, artifact_location=place))


def _local_store(root: Path) -> str:
    return f"sqlite:///{(root / 'mlflow.db').resolve()}"


def log_now(client: "MlflowClient", run_id: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
    """Add results to a run that has ended, in one call; its status stays as it is."""
    from mlflow.entities import Metric, RunTag

    now = int(time.time() * 1000)
    points = [Metric(name, float(value), now, 0) for name, value in metrics.items()]
    client.log_batch(run_id, metrics=points, tags=[RunTag(k, v) for k, v in tags.items()])


class Tracker:
    """One MLflow run: started or continued, fed, and closed with the status that it earned."""

    def __init__(
        self,
        experiment: str,
        name: str,
        settings: Mapping[str, Any],
        run_id: str | None = None,
        root: Path = RUNS,
        parent: str | None = None,
    ) -> None:
        import mlflow

        self.client = connect(root)
        os.environ.setdefault("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", str(SYSTEM_SECONDS))
        known = run_id if run_id and is_active(self.client, run_id) else None
        run = mlflow.start_run(
            run_id=known,
            experiment_id=experiment_id(self.client, experiment, root),
            run_name=None if known else name,
            parent_run_id=None if known else parent,
            log_system_metrics=True,
        )
        self.run_id: str = run.info.run_id
        self._logged = _last_step(self.client, self.run_id) if known else -1
        if not known:
            mlflow.log_params(dict(settings))
            self.tag({f"version.{k}": v for k, v in versions().items()} | {"git_commit": git_commit()})

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """One point of each curve, written off the hot path; points that the run already has are left alone."""
        import mlflow

        if step > self._logged:
            mlflow.log_metrics(dict(values), step=step, synchronous=False)

    def tag(self, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            self.client.set_tag(self.run_id, key, value)

    def corpus(self, corpus: Corpus, context: str) -> None:
        """The packed corpus as an MLflow data set: its name, its digest and where it lies."""
        import mlflow
        from mlflow.data.dataset_source_registry import resolve_dataset_source
        from mlflow.data.meta_dataset import MetaDataset

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a local folder matches two equivalent sources
            source = resolve_dataset_source(str(corpus.path), candidate_sources=None)
        record: Any = MetaDataset  # abstract only for type checkers
        mlflow.log_input(record(source, name=corpus.name, digest=corpus.digest[:8]), context=context)

    def artifact(self, file: Path, folder: str | None = None) -> None:
        self.client.log_artifact(self.run_id, str(file), folder)

    def model(self, checkpoint: Path) -> None:
        """The final model as a pyfunc that gives z and c. It is code beside a checkpoint; nothing is pickled."""
        import mlflow

        served = Path(__file__).with_name("served.py")
        # MLflow advises at length to add a signature, which waveforms of any length do not have.
        with redirect_stderr(io.StringIO()):
            mlflow.pyfunc.log_model(
                name="model",
                python_model=str(served),
                artifacts={"checkpoint": str(checkpoint)},
                pip_requirements=[f"cpc-audio=={versions()['cpc']}"],
            )

    def close(self, status: Status) -> None:
        """Wait for what is still on its way and end the run."""
        import mlflow

        mlflow.flush_async_logging()
        mlflow.end_run(status)


def is_active(client: "MlflowClient", run_id: str) -> bool:
    """True if the store has this run and it was not deleted."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException:
        return False


def _last_step(client: "MlflowClient", run_id: str) -> int:
    return max((point.step for point in client.get_metric_history(run_id, "train/loss")), default=-1)
