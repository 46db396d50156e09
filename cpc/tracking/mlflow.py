"""MLflow: where runs are kept, and one run's settings, curves, corpus, artifacts and honest status.

The only importer of mlflow, and only when something is tracked or read. Training writes through `Tracker`;
evaluation adds its results to the run of the model that it evaluated.

A local store is made under a lock, in a file beside it that then takes its name: many processes may open a fresh one at
the same moment, and a kill leaves no half of one. Where the store cannot be opened or written to, training continues:
what would have been logged is kept in a journal in the run's folder, and written when the store is back.
"""

import io
import json
import logging
import os
import sqlite3
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, redirect_stderr, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.io import atomic, disk_is_full, locked
from cpc.version import git_commit, versions

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

Status = Literal["FINISHED", "FAILED", "KILLED"]
RUNS = Path("runs")
SYSTEM_SECONDS = 10  # between two readings of processor, memory and GPU
JOURNAL = "tracking.jsonl"  # in a run's folder: what the store has yet to be told
RETRY_SECONDS = 30.0  # between two tries to reach a store that is away
KIND = {"mlflow.experimentKind": "custom_model_development"}  # else its UI opens as one of chats and traces
_CHOSEN_HERE = {""}  # MLflow keeps its store in MLFLOW_TRACKING_URI: these values are ours, not the user's


def connect(root: Path = RUNS) -> "MlflowClient":
    """A client of the store: MLFLOW_TRACKING_URI if set, else SQLite in `root`, made on first use.

    Raises:
        InputError: the local store is damaged, and holds runs.
    """
    import mlflow

    for name in ("mlflow", "alembic"):  # after the import, which sets them up: their news are of no use to a user
        logging.getLogger(name).setLevel(logging.ERROR)
    # A store that is away is told in one line (`_lose`); MLflow would print its own traceback before it.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri in _CHOSEN_HERE:
        root.mkdir(parents=True, exist_ok=True)
        _make_store(root)
        uri = _local_store(root)
        _CHOSEN_HERE.add(uri)
    mlflow.set_tracking_uri(uri)
    return mlflow.MlflowClient(uri)


def _make_store(root: Path) -> None:
    """Make the local store if it is missing, or if a kill has left half of one that holds no run."""
    file = root / "mlflow.db"
    if _is_whole(file):
        return
    with locked(root / ".mlflow.lock", f"{file}: another process is making it", wait=True):
        if _is_whole(file):
            return
        if runs := _runs_in(file):
            raise InputError(
                f"{file}: is only half made or damaged, and holds {runs} runs; finish it with `mlflow db upgrade "
                f"sqlite:///{file}`, or move it away: a new one is then made (checkpoints and results lie in {root})"
            )
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        new = root / ".mlflow.db.new"
        for leftover in (new, *(new.with_name(new.name + end) for end in ("-journal", "-wal", "-shm"))):
            leftover.unlink(missing_ok=True)
        store: Any = SqlAlchemyStore  # untyped
        made = store(f"sqlite:///{new.resolve()}", (root / "artifacts").resolve().as_uri())
        made.engine.dispose()
        for end in ("-journal", "-wal", "-shm"):  # of the half that is replaced
            file.with_name(file.name + end).unlink(missing_ok=True)
        new.replace(file)


def _is_whole(file: Path) -> bool:
    """Whether a file is a store whose tables were all made; noting its version is the last that is done."""
    tables = _ask(file, "SELECT name FROM sqlite_master WHERE type = 'table'")
    names = {name for (name,) in tables or ()}
    made = {"runs", "metrics", "latest_metrics", "params", "tags", "experiments", "alembic_version"} <= names
    unfinished = any(name.startswith("_alembic_tmp") for name in names)
    return made and not unfinished and bool(_ask(file, "SELECT version_num FROM alembic_version"))


def _runs_in(file: Path) -> int:
    found = _ask(file, "SELECT count(*) FROM runs")
    return int(found[0][0]) if found else 0


def _ask(file: Path, query: str) -> list[tuple[Any, ...]] | None:
    """The rows that a query of an SQLite file gives; None where there is no such file or table."""
    if not file.is_file():
        return None
    with closing(sqlite3.connect(f"file:{file.resolve()}?mode=ro", uri=True, timeout=20)) as connection:
        try:
            return connection.execute(query).fetchall()
        except sqlite3.DatabaseError as error:
            if "locked" in str(error):
                raise
            return None


def experiment_id(client: "MlflowClient", name: str, root: Path = RUNS) -> str:
    """The experiment's id, made on first use; artifacts of the local store lie in `root`."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage != "active":
            raise InputError(f"experiment={name}: was deleted in MLflow; restore it there or use another name")
        return str(found.experiment_id)
    local = client.tracking_uri == _local_store(root)
    place = (root / "artifacts" / name).resolve().as_uri() if local else None
    try:
        return str(client.create_experiment(name, artifact_location=place, tags=KIND))
    except Exception:
        found = client.get_experiment_by_name(name)  # another process made it meanwhile
        if found is None:
            raise
        return str(found.experiment_id)


def _local_store(root: Path) -> str:
    return f"sqlite:///{(root / 'mlflow.db').resolve()}"


def log_now(client: "MlflowClient", run_id: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
    """Add results to a run that has ended, in one call; its status stays as it is."""
    from mlflow.entities import Metric, RunTag

    now = int(time.time() * 1000)
    points = [Metric(name, float(value), now, 0) for name, value in metrics.items()]
    client.log_batch(run_id, metrics=points, tags=[RunTag(k, v) for k, v in tags.items()])


def new_run(folder: Path, experiment: str, settings: Mapping[str, Any], tags: Mapping[str, str]) -> str:
    """The id of a new, finished run that was not trained here, named after its folder."""
    from mlflow.entities import Param, RunTag

    client = connect(folder.parent)
    run: str = client.create_run(experiment_id(client, experiment, folder.parent), run_name=folder.name).info.run_id
    params = [Param(key, str(value)) for key, value in settings.items()]
    for start in range(0, len(params), 100):  # as many as MLflow takes at once
        client.log_batch(run, params=params[start : start + 100])
    client.log_batch(run, tags=[RunTag(key, value) for key, value in tags.items()])
    client.set_terminated(run)
    return run


Event = dict[str, Any]


class Tracker:
    """One MLflow run: started or continued, fed, and closed with the status that it earned.

    It never takes training down: what the store does not take goes to the journal `folder`/tracking.jsonl, `say` is
    told once, and the journal is written to the store when it is back, at the latest by the next tracker of the run.
    `run_id` is "" as long as the store has not been reached.
    """

    def __init__(
        self,
        experiment: str,
        folder: Path,
        settings: Mapping[str, Any],
        run_id: str | None = None,
        parent: str | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.run_id, self.journal = run_id or "", folder / JOURNAL
        self._experiment, self._folder, self._parent = experiment, folder, parent
        self._settings = dict(settings)
        self._say = say or partial(print, file=sys.stderr)
        self._client: MlflowClient | None = None
        self._monitor: Any = None
        self._logged = -1  # the last step whose points the run already has
        self._away_since: float | None = None
        self._writer = ThreadPoolExecutor(1, "tracking")
        self._open_or_wait()

    @property
    def client(self) -> "MlflowClient":
        """The store's client.

        Raises:
            InputError: the store is away.
        """
        if self._client is None or self._away_since is not None:
            raise InputError(f"{self.journal}: the tracking store is away; what it has to be told is kept here")
        return self._client

    @property
    def is_away(self) -> bool:
        """Whether the store cannot be reached, and the journal is kept instead."""
        return self._away_since is not None

    def flush(self) -> None:
        """Wait until what was logged is written."""
        self._writer.submit(lambda: None).result()

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """One point of each curve, written off the hot path; points that the run already has are left alone."""
        if step > self._logged:
            event = {"kind": "metrics", "values": dict(values), "step": step, "time": int(time.time() * 1000)}
            self._writer.submit(self._log, event)

    def tag(self, values: Mapping[str, Any]) -> None:
        self._writer.submit(self._log, {"kind": "tags", "values": {k: str(v) for k, v in values.items()}})

    def corpus(self, corpus: Corpus, context: str) -> None:
        """The packed corpus as an MLflow data set: its name, its digest and where it lies."""
        known = {"path": str(corpus.path), "name": corpus.name, "digest": corpus.digest[:8]}
        self._log_now({"kind": "corpus", **known, "context": context})

    def artifact(self, file: Path, folder: str | None = None) -> None:
        self._log_now({"kind": "artifact", "file": str(file.resolve()), "folder": folder})

    def model(self, checkpoint: Path) -> None:
        """The final model as a pyfunc that gives z and c. It is code beside a checkpoint; nothing is pickled."""
        self._log_now({"kind": "model", "checkpoint": str(checkpoint.resolve())})

    def close(self, status: Status) -> bool:
        """Write what is still on its way and end the run; False if the store is away, and the journal waits for it."""
        self._writer.shutdown(wait=True)
        if self._monitor is not None:
            with suppress(Exception):
                self._monitor.finish()
        if self._away_since is not None:
            self._open_or_wait()
        self._log({"kind": "status", "status": status})
        if self._away_since is not None:
            self._say(
                f"the tracking store is still away: what was logged is kept in {self.journal}; "
                f"`cpc train --resume {self._folder}` writes it"
            )
        return self._away_since is None

    def _open_or_wait(self) -> None:
        """Reach the store, start or continue the run, and tell it what the journal holds."""
        try:
            self._open()
        except InputError:
            raise  # a mistake that the user can mend now
        except Exception as error:
            self._lose(error)

    def _open(self) -> None:
        root = self._folder.parent
        client = connect(root)
        if self.run_id and is_active(client, self.run_id):
            client.update_run(self.run_id, status="RUNNING")
            self._logged = _last_step(client, self.run_id)
        else:
            self.run_id = self._start(client, experiment_id(client, self._experiment, root))
        self._client = client
        self._replay()
        self._away_since = None
        if self._monitor is None:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            monitor: Any = SystemMetricsMonitor  # untyped
            self._monitor = monitor(self.run_id, SYSTEM_SECONDS, resume_logging=self._logged >= 0)
            self._monitor.start()

    def _start(self, client: "MlflowClient", experiment: str) -> str:
        """A new run, with the settings and versions that it is made of."""
        from mlflow.entities import Param, RunTag
        from mlflow.tracking.context.registry import resolve_tags

        parent = {"mlflow.parentRunId": self._parent} if self._parent else {}
        named = resolve_tags({"mlflow.runName": self._folder.name, **parent})
        run: str = client.create_run(experiment, tags=named, run_name=self._folder.name).info.run_id
        params = [Param(key, str(value)) for key, value in self._settings.items()]
        tags = {f"version.{k}": v for k, v in versions().items()} | {"git_commit": git_commit()}
        for first in range(0, len(params), 100):  # as many as MLflow takes at once
            client.log_batch(run, params=params[first : first + 100])
        client.log_batch(run, tags=[RunTag(key, str(value)) for key, value in tags.items()])
        return run

    def _replay(self) -> None:
        """Tell the store what the journal holds, in its order; what it has been told leaves the journal."""
        if not self.journal.exists():
            return
        lines = self.journal.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines):
            with suppress(json.JSONDecodeError):  # the last line of a process that was killed
                try:
                    self._write(json.loads(line))
                except Exception:
                    with atomic(self.journal) as file:
                        file.write("".join(f"{left}\n" for left in lines[number:]).encode())
                    raise
        self.journal.unlink()

    def _log(self, event: Event) -> None:
        """Tell the store, or the journal."""
        if self._away_since is not None and time.monotonic() - self._away_since > RETRY_SECONDS:
            with suppress(InputError):
                self._open_or_wait()
        if self._away_since is None:
            try:
                self._write(event)
                return
            except Exception as error:
                self._lose(error)
        try:
            with self.journal.open("a", encoding="utf-8") as file:
                file.write(json.dumps(event) + "\n")
        except OSError as error:
            self._say(f"warning: {self.journal}: cannot be written ({error.strerror}); a point of the curves is lost")

    def _log_now(self, event: Event) -> None:
        """The same in this thread, after all that was logged before."""
        self.flush()
        self._log(event)

    def _write(self, event: Event) -> None:
        """Tell the store one thing; telling it twice changes nothing."""
        from mlflow.entities import Metric, RunTag

        client = self._client or connect(self._folder.parent)
        match event["kind"]:
            case "metrics":
                values, step, at = event["values"], event["step"], event["time"]
                client.log_batch(self.run_id, metrics=[Metric(k, float(v), at, step) for k, v in values.items()])
            case "tags":
                client.log_batch(self.run_id, tags=[RunTag(k, v) for k, v in event["values"].items()])
            case "corpus":
                _log_corpus(client, self.run_id, event)
            case "artifact":
                client.log_artifact(self.run_id, event["file"], event["folder"])
            case "model":
                log_model(self.run_id, Path(event["checkpoint"]))
            case "status":
                client.set_terminated(self.run_id, event["status"])

    def _lose(self, error: Exception) -> None:
        """The store is away: said once, until it is back."""
        if self._away_since is None:
            reason = "its disk is full" if disk_is_full(error) else " ".join(str(error).split())[:200]
            self._say(
                f"warning: the tracking store cannot be used ({reason}); training continues, and what is logged is "
                f"kept in {self.journal} until the store is back"
            )
        self._away_since = time.monotonic()


def _log_corpus(client: "MlflowClient", run_id: str, event: Event) -> None:
    from mlflow.data.dataset_source_registry import resolve_dataset_source
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import DatasetInput, InputTag

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a local folder matches two equivalent sources
        source = resolve_dataset_source(event["path"], candidate_sources=None)
    record: Any = MetaDataset  # abstract only for type checkers
    entity = record(source, name=event["name"], digest=event["digest"])._to_mlflow_entity()
    client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", event["context"])])])


def log_model(run_id: str, checkpoint: Path) -> None:
    """A checkpoint as the model that MLflow serves, on a run of the store that `connect` opened last."""
    import mlflow

    served = Path(__file__).with_name("pyfunc.py")
    # MLflow advises at length to add a signature, which waveforms of any length do not have.
    with redirect_stderr(io.StringIO()), mlflow.start_run(run_id, nested=True, log_system_metrics=False):
        mlflow.pyfunc.log_model(
            name="model",
            python_model=str(served),
            artifacts={"checkpoint": str(checkpoint)},
            pip_requirements=[f"cpc-audio=={versions()['cpc']}"],
        )


def is_active(client: "MlflowClient", run_id: str) -> bool:
    """True if the store has this run and it was not deleted."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException:
        return False


def _last_step(client: "MlflowClient", run_id: str) -> int:
    return max((point.step for point in client.get_metric_history(run_id, "train/loss")), default=-1)
