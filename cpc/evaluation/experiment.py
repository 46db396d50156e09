"""An experiment as MLflow knows it: its runs, the settings in which they differ, and what their features are worth.

Everything is read from MLflow, so it works on any tracking server. Results are metrics of the run that they evaluate,
named probe/TASK/WHERE/FEATURES/accuracy (or abx/WHERE/TASK/FEATURES/error, and verification/… alike), with …/low and
…/high. WHERE is SPLIT--CORPUS--… (see `saved.Identity`), and by older versions the test split alone. Baselines are runs
tagged `kind=baseline`; the runs of a sweep name its own run, tagged `kind=sweep`, as their parent.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cpc.config import InputError
from cpc.evaluation.results import ProbeResult, headings
from cpc.tracking.curves import History, history
from cpc.tracking.mlflow import RUNS, connect

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun
    from mlflow.tracking import MlflowClient

BASELINE, SWEEP = "baseline", "sweep"
PARENT = "mlflow.parentRunId"
UNCOMPARED = ("data.corpus", "experiment", "training.device")  # where things lie is not how they differ
MEASURES = {"accuracy": 1, "error": -1}  # the last part of a metric's name: is more better, or less?
ERRORS = ("abx", "verification")  # the first part of error rates,
KINDS = ("probe", *ERRORS)  # and of all results
_SAME = 1e-9  # a number in MLflow and the same in a file


@dataclass(frozen=True)
class Row:
    """One kind of features of one run.

    metrics: TASK/WHERE (or abx/WHERE/TASK and verification/WHERE/TASK, whose values are error rates) → value
        with its 95% interval.
    results: the same task → what was found utterance by utterance, where that was recorded.
    sweep: the name of the sweep that the run belongs to.
    """

    run: str
    features: str
    settings: Mapping[str, str]
    metrics: Mapping[str, tuple[float, float, float]]
    status: str
    started: int
    run_id: str = ""
    sweep: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    results: Mapping[str, ProbeResult] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        """What no other row of a table has."""
        return self.run_id, self.features

    @property
    def is_baseline(self) -> bool:
        return self.status == BASELINE

    @property
    def name(self) -> str:
        """The run, with its status where that is not the usual one."""
        return self.run if self.status in ("FINISHED", BASELINE) else f"{self.run} ({self.status.lower()})"


def rows(experiment: str, root: Path = RUNS) -> list[Row]:
    """Every run's features: baselines first, then in the order of their start, the runs of a sweep together.

    Raises:
        InputError: no such experiment (the known ones are named), or it has no run.
    """
    found = runs(experiment, root)
    client = connect(root)
    parents = {run.info.run_id: run for run in found if run.data.tags.get("kind") == SWEEP}
    table = [row for run in found if run.info.run_id not in parents for row in rows_of(client, run, parents)]

    def place(row: Row) -> tuple[bool, int, int]:
        own = [run.info.start_time for run in parents.values() if row.sweep and run.info.run_name == row.sweep]
        return not row.is_baseline, min(own, default=row.started), row.started

    return _disambiguate(sorted(table, key=place))


def _disambiguate(table: Sequence[Row]) -> list[Row]:
    """Baselines of one name (random weights of two architectures) with what they belong to; the others as they are."""
    names = [row.run for row in table if row.is_baseline]
    for tag, words in (("beside", " (as in {})"), ("subject", " {}")):
        clash = {name for name in names if names.count(name) > 1}
        table = [
            replace(row, run=row.run + words.format(row.tags[tag])) if row.run in clash and tag in row.tags else row
            for row in table
        ]
        names = [row.run for row in table if row.is_baseline]
    return list(table)


def runs(experiment: str, root: Path = RUNS) -> list["MlflowRun"]:
    """The experiment's runs in MLflow, oldest first."""
    client = connect(root)
    known = {e.name: e.experiment_id for e in client.search_experiments()}
    if experiment not in known:
        names = ", ".join(sorted(known.keys() - {"Default"})) or "none yet"
        raise InputError(f"experiment={experiment}: not in {client.tracking_uri}; known experiments: {names}")
    found = list(_search(client, [known[experiment]], ""))
    if not found:
        raise InputError(f"experiment={experiment}: has no runs yet; train one with cpc train")
    return found


def _search(client: "MlflowClient", experiments: Sequence[str], query: str) -> Iterator["MlflowRun"]:
    token = None
    while True:
        order = ["attributes.start_time ASC"]
        page = client.search_runs(list(experiments), query, order_by=order, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def find_run(name: str, root: Path = RUNS) -> "MlflowRun":
    """A run by the folder runs/NAME, by its name in any experiment, or by its MLflow id.

    Raises:
        InputError: there is none, or several have that name (their ids are given).
    """
    client = connect(root)
    experiments = [e.experiment_id for e in client.search_experiments()]
    state = Path(name) / "run.json"
    wanted = json.loads(state.read_text(encoding="utf-8"))["run_id"] if state.is_file() else name
    found = [run for run in _search(client, experiments, "") if wanted in (run.info.run_id, run.info.run_name)]
    found = [run for run in found if run.info.run_id == wanted] or found
    if not found:
        rule = "no such run folder, run name or run id; see the runs of an experiment with cpc compare EXPERIMENT"
        raise InputError(f"run={name}: not in {client.tracking_uri}: {rule}")
    if len(found) > 1:
        ids = ", ".join(run.info.run_id for run in found[:6])
        raise InputError(f"run={name}: {len(found)} runs have this name; give one's id instead: {ids}")
    return found[0]


def rows_of(client: "MlflowClient", run: "MlflowRun", parents: Mapping[str, "MlflowRun"] | None = None) -> list[Row]:
    """One row for each kind of features that was evaluated; one without metrics for a run that was not."""
    by_features: dict[str, dict[str, tuple[float, float, float]]] = {}
    for stem, measure in _measured(run.data.metrics):
        kind, *task, features = stem.split("/")
        name = "/".join(task if kind == "probe" else [kind, *task])
        values = [run.data.metrics.get(f"{stem}/{part}") for part in (measure, "low", "high")]
        value = values[0] or 0.0
        interval = (value, *(value if each is None else each for each in values[1:]))
        by_features.setdefault(features, {})[name] = interval  # type: ignore[assignment]
    baseline = run.data.tags.get("kind") == BASELINE
    sweep = (parents or {}).get(run.data.tags.get(PARENT, ""))
    results = recorded(client, run.info.run_id) if by_features else []
    return [
        Row(
            run.data.tags["features"] if baseline else run.info.run_name,
            "" if baseline else f"CPC {features}".strip(),
            {} if baseline else run.data.params,
            by_features.get(features, {}),
            BASELINE if baseline else run.info.status,
            run.info.start_time,
            run.info.run_id,
            sweep.info.run_name if sweep else "",
            run.data.tags,
            _belonging(results, features, by_features.get(features, {})),
        )
        for features in sorted(by_features, reverse=True) or [""]
    ]


def _measured(metrics: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """Stem and last part of every metric that is a result."""
    for name in metrics:
        stem, _, measure = name.rpartition("/")
        if measure in MEASURES and stem.count("/") >= 2 and stem.split("/")[0] in KINDS:
            yield stem, measure


def _belonging(
    results: Sequence[ProbeResult], features: str, metrics: Mapping[str, tuple[float, float, float]]
) -> dict[str, ProbeResult]:
    """Column → the result of that name whose number is the one in the column: by older versions several had a name."""
    return {
        column: result
        for result in results
        if result.budget == 100 and features in _features(result)
        for column in {result.identity.column, "" if result.fingerprint else result.older_column}
        if column in metrics and abs(metrics[column][0] - result.accuracy) < _SAME
    }


def _features(result: ProbeResult) -> tuple[str, str]:
    """How a metric names a result's features, and how older versions did."""
    return result.identity.features.removeprefix("cpc_"), result.slug.removeprefix("cpc_")


def recorded(client: "MlflowClient", run_id: str) -> list[ProbeResult]:
    """The results that lie beside a run's metrics, in probes/*.json."""
    found: list[ProbeResult] = []
    with tempfile.TemporaryDirectory() as folder:
        for file in downloaded(client, run_id, "probes", Path(folder)):
            try:
                found.append(ProbeResult.read(file))
            except (InputError, ValueError):
                continue  # of another version: the metrics still have its number
    return found


def downloaded(client: "MlflowClient", run_id: str, folder: str, to: Path) -> list[Path]:
    """The files of one folder of a run's artifacts, copied into `to`; none where there is no such folder."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar for each of many small files
    if not client.list_artifacts(run_id, folder):
        return []
    return sorted(path for path in Path(client.download_artifacts(run_id, folder, str(to))).iterdir() if path.is_file())


def differing(table: Sequence[Row]) -> list[str]:
    """The settings in which the runs differ."""
    trained = [row.settings for row in table if not row.is_baseline]
    keys = sorted({key for settings in trained for key in settings} - set(UNCOMPARED))
    return [key for key in keys if len({settings.get(key) for settings in trained}) > 1]


def tasks(table: Sequence[Row]) -> list[str]:
    """TASK/WHERE of every result that any row has: probes first, phones before speakers, then error rates."""
    return sorted({task for row in table for task in row.metrics}, key=lambda task: (is_error(task), task))


def is_error(task: str) -> bool:
    """True where less is better."""
    return task.partition("/")[0] in ERRORS


def best_row(table: Sequence[Row], task: str) -> Row:
    """The row with the best value of a task that at least one row has."""
    sign = -1 if is_error(task) else 1
    return max((row for row in table if task in row.metrics), key=lambda row: sign * row.metrics[task][0])


def best(table: Sequence[Row], task: str) -> float:
    """The best value of a task."""
    return best_row(table, task).metrics[task][0]


def curves(table: Sequence[Row], root: Path = RUNS) -> dict[str, History]:
    """The training curves of every trained run, by its name (with the start of its id where two share one)."""
    client = connect(root)
    trained = {row.run_id: row.run for row in table if not row.is_baseline}
    names = list(trained.values())
    return {
        name if names.count(name) == 1 else f"{name} {run_id[:6]}": history(client, run_id)
        for run_id, name in trained.items()
    }


# --- The best run's model under a name in MLflow's model registry, with an alias such as `best`.


@dataclass(frozen=True)
class Registered:
    """A version of a registered model, and the result for which it was chosen."""

    name: str
    version: str
    alias: str | None
    run: str
    task: str
    value: float

    @property
    def uri(self) -> str:
        """What mlflow.pyfunc.load_model takes."""
        return f"models:/{self.name}@{self.alias}" if self.alias else f"models:/{self.name}/{self.version}"


def register(
    table: list[Row], name: str, alias: str | None = None, by: str | None = None, root: Path = RUNS
) -> Registered:
    """Register the model of the finished run that is best at a task (`by`: as in the table, the first by default).

    A run whose model is registered under that name already gets the alias, and no second version.

    Raises:
        InputError: no finished run has that result, or the best one has no model.
    """
    trained = [row for row in table if not row.is_baseline and row.status == "FINISHED"]
    known = headings(tasks(trained))
    if not known or (by is not None and by not in (*known, *known.values())):
        rule = f"results of finished runs: {', '.join(known.values()) or 'none; probe a run first'}"
        raise InputError(f"by={by}: no finished run has this result; {rule}")
    task = next(name for name, heading in known.items() if by in (None, name, heading))
    row = best_row(trained, task)
    client = connect(root)
    versions = client.search_model_versions(f"name = '{_checked(name)}'")
    own = [version for version in versions if version.run_id == row.run_id]
    version = str(own[0].version) if own else _version(name, row)
    if alias:
        client.set_registered_model_alias(name, alias, version)
    client.set_model_version_tag(name, version, "chosen_for", f"{task} {row.metrics[task][0]:.4f} ({row.features})")
    return Registered(name, version, alias, row.run, known[task], row.metrics[task][0])


def _version(name: str, row: Row) -> str:
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        return str(mlflow.register_model(f"runs:/{row.run_id}/model", name).version)
    except MlflowException as error:
        reason = " ".join(str(error).split())
        raise InputError(f"run={row.run}: its model cannot be registered as {name}: {reason}") from None


def _checked(name: str) -> str:
    if not name or any(character in name for character in "/:.%\"'"):
        raise InputError(f"register={name}: a name of letters, digits, spaces, - and _; not / : . % or quotes")
    return name


def sentence(done: Registered) -> str:
    """What was registered and why, in one line."""
    kind = "error" if is_error(done.task) else "accuracy"
    where = f"{done.name}, version {done.version}" + (f", alias {done.alias}" if done.alias else "")
    return f"registered: {where}: run {done.run}, best at {done.task} ({kind} {done.value:.1%}); load it by {done.uri}"
