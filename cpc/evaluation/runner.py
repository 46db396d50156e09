"""What every evaluation does: a model's layers beside the baselines, nothing computed twice, results where they belong.

The baselines say what a number is worth: MFCC and log-mel are what speech recognition used before anything was
learnt, and a model of the same architecture with random weights shows what the architecture alone gives. Results go
into the run's folder and onto its run in MLflow.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

import yaml

from cpc.audio.mfcc import MFCC39, LogMel
from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.evaluation.experiment import BASELINE
from cpc.evaluation.features import Features, Layer, LayerName, check_layer
from cpc.evaluation.leakage import Unknown
from cpc.evaluation.results import SHORT, Saved, headings, key
from cpc.models.checkpoint import load
from cpc.models.convert import ELSEWHERE
from cpc.models.cpc import CPC, build
from cpc.tracking.mlflow import connect, experiment_id, is_active, log_now

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

RANDOM_SEED = 0
NOTE = "mlflow.note.content"  # a run's description in the UI
_LONGEST_TAG = 4000  # characters; MLflow refuses longer ones


def load_checked(run: Path, layers: Sequence[LayerName], device: str) -> CPC:
    """The model of a run folder or a checkpoint. Raises InputError for a layer that it does not have."""
    model = load(run, device)
    for layer in layers:
        check_layer(model, layer)
    return model


@runtime_checkable
class Noted(Protocol):
    """A dataclass of a result, with notes."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def notes(self) -> tuple[str, ...]: ...


Result = TypeVar("Result", bound=Noted)


def with_baselines(
    model: CPC,
    layers: Sequence[LayerName],
    baselines: bool,
    measure: Callable[[Sequence[Features]], list[Result]],
    heard: tuple[str, ...],
    further: Sequence[Layer] = (),
) -> list[Result]:
    """What `measure` gives for MFCC, log-mel and random init, if asked for, and then for the layers of the model.

    `further`: more of the model's own features. `heard`: what pretraining heard of the test, a note to its own results.
    """
    device = str(next(model.parameters()).device)
    results: list[Result] = []
    for group in baseline_features(model, layers, device) if baselines else ():
        results += measure(group)
    own = measure([*(Layer(model, layer) for layer in layers), *further])
    return results + [replace(result, notes=result.notes + heard) for result in own]


def baseline_features(model: CPC, layers: Sequence[LayerName], device: str) -> Iterator[Sequence[Features]]:
    """MFCC, log-mel, and the layers of an untrained model of the same architecture."""
    yield [MFCC39().to(device)]
    yield [LogMel().to(device)]
    untrained = build(model.config, RANDOM_SEED).to(device)
    yield [Layer(untrained, layer, "random") for layer in layers]


def subject_of(features: Features) -> str:
    """A fingerprint of features whose name does not say all: empty for a run's own and for usual front ends."""
    if features.name.startswith("CPC") or features.settings in (MFCC39().settings, LogMel().settings):
        return ""
    return key(features.settings)[:SHORT]


Subject = TypeVar("Subject")
Kept = TypeVar("Kept", bound=Saved)


def reuse_or_measure(
    subjects: Sequence[Subject],
    places: Sequence[Path | None],
    known: Callable[[Path], Kept | None],
    measure: Callable[[list[Subject]], Iterator[Kept]],
) -> list[Kept]:
    """The result of each subject: the one `known` at its place, or what `measure` gives, in turn, for all others.

    Each new result is written to its place as soon as it is there; None is no place. A file that cannot be read, or
    is of another version, counts as none.
    """
    found = [_readable(place, known) for place in places]
    missing = [subject for subject, result in zip(subjects, found, strict=True) if result is None]
    computed = measure(missing) if missing else iter(())
    results = []
    for place, result in zip(places, found, strict=True):
        results.append(next(computed) if result is None else result)
        if result is None and place is not None:
            results[-1].write(place)
    return results


def measure_cached(
    group: Sequence[Features],
    cache: Path | None,
    name: Callable[[Features], str],
    known: Callable[[Path], Kept | None],
    measure: Callable[[list[Features]], Iterator[Kept]],
    **facts: Any,
) -> list[Kept]:
    """`reuse_or_measure` of features, each in `cache`/NAME.json, told from others by its subject and `facts`."""
    places = [cache / f"{name(features)}.json" if cache else None for features in group]
    found = reuse_or_measure(group, places, known, measure)
    own = ({"subject": subject_of(features), **facts} for features in group)
    return [replace(result, **each) for result, each in zip(found, own, strict=True)]


def _readable(place: Path | None, known: Callable[[Path], Kept | None]) -> Kept | None:
    try:
        return known(place) if place is not None else None
    except (FileNotFoundError, ValueError):
        return None


@contextmanager
def progress_line(what: str, shown: bool) -> Iterator[list[str]]:
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


# --- A run's folder and its run in MLflow.


def record(results: Sequence[Saved], run: Path) -> None:
    """Results of a run and of its baselines: a file each in a folder of the run, metrics and the file in MLflow.

    Raises:
        InputError: MLflow does not know the run; the files are written nevertheless.
    """
    state = read_state(run)
    for result in results:
        result.write(run / result.FOLDER / result.file_name)
    client = client_of(run, state["run_id"], run / results[0].FOLDER)
    targets = set()
    for result in results:
        name, file = result.metric_name, run / result.FOLDER / result.file_name
        target = target_run(client, state, result.features, result.subject, run)
        values = {f"{name}/{part}": value for part, value in result.metrics().items()}
        log_now(client, target, values, {name.replace("/", "."): result.description[:_LONGEST_TAG]})
        client.log_artifact(target, str(file), result.FOLDER)
        targets.add(target)
    for target in targets:
        log_now(client, target, {}, {NOTE: results_note(client.get_run(target).data.metrics)[:_LONGEST_TAG]})


def results_note(metrics: Mapping[str, float]) -> str:
    """A run's results as the Markdown that MLflow shows as its description: a row for each number with an interval.

    Columns are named as in the table of `cpc compare`: by what tells them from the others.

    >>> print(results_note({"probe/phone/test/c/accuracy": 0.5, "probe/phone/test/c/low": 0.4,
    ...                     "probe/phone/test/c/high": 0.61, "train/loss": 4.0}))
    | result | % | 95% interval |
    |---|---:|---|
    | phone, test, c: accuracy | 50.0 | 40.0 to 61.0 |
    """
    rows = []
    for name in sorted(metrics):
        group, _, part = name.rpartition("/")
        if part in ("accuracy", "error") and f"{group}/low" in metrics:
            column, _, features = group.removeprefix("probe/").removeprefix("budget/").rpartition("/")
            values = [100 * metrics[f"{group}/{one}"] for one in (part, "low", "high")]
            rows.append((column, f"{features}: {part}", "| {:.1f} | {:.1f} to {:.1f} |".format(*values)))
    names = headings(sorted({column for column, _, _ in rows}))
    lines = ["| result | % | 95% interval |", "|---|---:|---|"]
    lines += [f"| {', '.join(names[column].split('/'))}, {what} {numbers}" for column, what, numbers in rows]
    return "\n".join(lines)


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
        if data["corpus"] == ELSEWHERE:
            return Unknown("the model was trained by another tool, on data that its file does not name")
        corpus = Corpus.open(data["corpus"])
        return [corpus.ids[row] for row in corpus.rows(data["train"])] if data["train"] else corpus.ids
    except (InputError, OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        return Unknown(" ".join(str(error).split()) or type(error).__name__)


def target_run(client: "MlflowClient", state: Mapping[str, Any], features: str, subject: str, run: Path) -> str:
    """The MLflow run that a result belongs to: the run's own, or that of a baseline.

    A baseline has one run in an experiment, made on first use; one whose name does not say all, such as random weights,
    has one for each subject, which is named after the run beside which it was first evaluated.
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
