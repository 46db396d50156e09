"""A probe session: the layers of a run's model beside the baselines; nothing is computed twice."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.table import Table

from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.evaluation.experiment import BASELINE
from cpc.evaluation.features import Features, FrameTable, Layer, LayerName, extract, extract_features
from cpc.evaluation.leakage import Unknown, pretraining_note
from cpc.evaluation.probes.cache import find, identified, place
from cpc.evaluation.probes.probe import judge, judge_folds
from cpc.evaluation.probes.protocol import WINDOW, ProbeProtocol, Rows, Trial, check
from cpc.evaluation.results import TASKS, ProbeResult, Task
from cpc.evaluation.session import beside_baselines, load_checked, subject_of
from cpc.tracking.mlflow import connect, experiment_id, is_active, log_now

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

KINDS: Mapping[str, tuple[Task, ...]] = {
    "speaker": ("speaker_frame", "speaker_utterance"),
    **{task: (task,) for task in TASKS},
}
ProbeJob = tuple[Features, Task, ProbeProtocol]


def probe_run(
    task: str,
    run: Path,
    corpus_path: Path,
    train: str,
    test: str,
    *,
    layers: Sequence[LayerName] = ("z", "c"),
    baselines: bool = True,
    cache: Path,
    device: str = "cpu",
    progress: bool = True,
    pretrain_ids: Sequence[str] | Unknown | None = None,
    labels: str = "phones",
    protocols: Sequence[ProbeProtocol] = (ProbeProtocol(),),
    folds: int = 0,
) -> list[ProbeResult]:
    """Probe a run's model (a run folder or a checkpoint), baselines first: MFCC, log-mel, random, then its layers.

    `task` is one of the tasks, or "speaker" for single frames and utterance means, next to each other for each of the
    features. With several `protocols` each of the features is judged by all of them. `pretrain_ids` are the
    utterances that the model was trained on, if they are known. What was computed once is kept in `cache`.
    Raises InputError for splits that cannot be judged, before anything is computed.
    """
    if task not in KINDS:
        raise InputError(f"task={task}: must be one of {', '.join(KINDS)}")
    trial = Trial(Corpus.open(corpus_path), train, test, labels, device=device, progress=progress, folds=folds)
    for each, protocol in ((each, protocol) for each in KINDS[task] for protocol in protocols):
        check(replace(trial, protocol=protocol), each)

    def measure(group: Sequence[Features]) -> list[ProbeResult]:
        return probe_cached(group, trial, KINDS[task], cache, protocols)

    heard = pretraining_note(trial.corpus, trial.tested, pretrain_ids)
    return beside_baselines(load_checked(run, layers, device), layers, baselines, measure, heard)


def probe_cached(
    group: Sequence[Features],
    trial: Trial,
    tasks: Sequence[Task],
    cache: Path,
    protocols: Sequence[ProbeProtocol] = (ProbeProtocol(),),
) -> list[ProbeResult]:
    """Judge features that come out of one pass over the audio (the layers of one model) on several tasks, by several
    protocols; from `cache` where the same was computed before.
    """
    jobs = [(features, task, protocol) for features in group for task in tasks for protocol in protocols]
    subjects = {features.name: {"name": features.name, **features.settings} for features in group}
    paths = {}
    for features, task, protocol in jobs:
        where = place(cache, subjects[features.name], replace(trial, protocol=protocol), task)
        paths[features.name, task, protocol] = where
    found = {job: result for job, path in paths.items() if (result := find(path, trial)) is not None}
    missing = [job for job in jobs if (job[0].name, *job[1:]) not in found]
    for (features, task, protocol), result in _compute(missing, trial):
        found[features.name, task, protocol] = result
        result.write(paths[features.name, task, protocol])
    known = {features.name: subject_of(features) for features in group}
    return [
        identified(result, replace(trial, protocol=job[2]), known[job[0]])
        for job, result in ((job, found[job]) for job in paths)
    ]


def _compute(jobs: Sequence[ProbeJob], trial: Trial) -> Iterator[tuple[ProbeJob, ProbeResult]]:
    """Every job with its result, from one pass over the audio; `speaker_last` needs another, of windows alone."""
    for window in (None, WINDOW):
        due = [job for job in jobs if (job[1] == "speaker_last") == (window is not None)]
        group = list({id(job[0]): job[0] for job in due}.values())
        splits = [trial.tested] if trial.folds else [trial.rows(trial.train), trial.rows(trial.test)]
        tables = [_extract(group, trial, rows, window) for rows in splits] if due else []
        for job in due:
            own = [table[group.index(job[0])] for table in tables]
            yield job, _judge(job, trial, own)


def _judge(job: ProbeJob, trial: Trial, tables: Sequence[FrameTable]) -> ProbeResult:
    features, task, protocol = job
    asked = replace(trial, protocol=protocol)
    kind = "" if protocol.classifier == "linear" else f" {protocol.classifier}"
    budget = "" if protocol.budget == 100 else f", {protocol.budget:g}% of the labels"
    with announced(f"{task}{kind} probe of {protocol.name(features.name)}{budget}", trial.progress) as said:
        if trial.folds:
            result = judge_folds(asked, task, features, tables[0])
        else:
            result = judge(asked, task, features, tables[0], tables[1])
        said.append(f"{result.accuracy:.1%}" + (f", L2 {result.l2:.2g}" if result.l2 else ""))
    return result


def _extract(group: Sequence[Features], trial: Trial, rows: Rows, window: int | None) -> list[FrameTable]:
    corpus, progress, first = trial.corpus, trial.progress, group[0]
    layers = [member.layer for member in group if isinstance(member, Layer)]
    if isinstance(first, Layer) and len(layers) == len(group):
        tables = extract(first.model, corpus, rows, layers, last_of=window, progress=progress, name=first.origin)
        return [tables[layer] for layer in layers]
    return [
        extract_features(each, corpus, rows, last_of=window, device=trial.device, progress=progress) for each in group
    ]


@contextmanager
def announced(what: str, shown: bool) -> Iterator[list[str]]:
    """On stderr: a spinner while it lasts, and one line when it is over with what the block has put in the list."""
    from rich.console import Console

    console, start, said = Console(stderr=True, quiet=not shown, soft_wrap=True), time.monotonic(), list[str]()
    if console.is_terminal:
        with console.status(what):
            yield said
    else:
        yield said
    line = f"{what}: {', '.join(said)} ({time.monotonic() - start:.0f} s)"
    console.print(line, highlight=False, markup=False)


# --- Probe a run and put the results where they belong: into its folder, and onto its run in MLflow.


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
    protocols: Sequence[ProbeProtocol] = (ProbeProtocol(),),
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


# --- Results as a table for a terminal.


def probe_table(results: Sequence[ProbeResult]) -> Table:
    """One row a result: accuracy, its 95% intervals over utterances and speakers, and what it was measured on.

    The phone error rate is an error: lower is better.
    """
    first = results[0]
    title = f"{first.corpus}: {first.train} → {first.test}; accuracy % with its 95% interval"
    table = Table(title=title, title_justify="left")
    for name in ("task", "classifier", "features"):
        table.add_column(name)
    for name in ("%", "over utterances", "over speakers", "majority %", "classes", "L2", "labels %"):
        table.add_column(name, justify="right")
    for name in ("test examples", "utterances"):
        table.add_column(name, justify="right")
    for r in sorted(results, key=lambda result: result.column):
        numbers = (_value(r), _interval(r, r.low, r.high), _interval(r, r.speakers_low, r.speakers_high))
        majority = "–" if r.task == "phone_sequence" else f"{100 * r.majority:.1f}"
        chosen = (majority, str(r.classes), "–" if r.l2 is None else f"{r.l2:.2g}", f"{r.budget:g}")
        counts = (f"{r.test_examples:,}", str(r.test_utterances))
        table.add_row(task_name(r), r.classifier.replace("_", " "), r.features, *numbers, *chosen, *counts)
    return table


def task_name(result: ProbeResult) -> str:
    """The task in words."""
    return "phone error rate" if result.task == "phone_sequence" else result.task.replace("_", " ")


def _value(result: ProbeResult) -> str:
    return f"{100 * (result.error if result.task == 'phone_sequence' else result.accuracy):.1f}"


def _interval(result: ProbeResult, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "–"
    low, high = (1 - high, 1 - low) if result.task == "phone_sequence" else (low, high)
    return f"{100 * low:.1f} – {100 * high:.1f}"
