"""A sweep: one recipe trained under several settings, each run probed, all compared; it resumes where it stopped."""

import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from cpc.config import STRICT, InputError, load
from cpc.data.engine import Engine, Threads, Tick, Work, Worker
from cpc.io import write_json
from cpc.tracking.mlflow import RUNS, connect, experiment_id, is_active
from cpc.training.metrics import NotFinite
from cpc.training.recipe import Recipe, load_config
from cpc.training.run import Run, RunExists, train

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SWEEP = "sweep"  # the tag `kind` of the parent run in MLflow


@dataclass(frozen=True, config=STRICT)
class ProbeConfig:
    """A probe that every run of a sweep is evaluated by."""

    task: Literal["phone", "speaker"]
    train: str
    test: str
    layers: Annotated[tuple[Literal["z", "c"], ...], Field(min_length=1)] = ("c",)
    corpus: str | None = None  # the recipe's own by default


@dataclass(frozen=True, config=STRICT)
class ASHAConfig:
    """Early stopping of hopeless runs by asynchronous successive halving (Li et al. 2020).

    min_steps: before which no run is stopped. reduction_factor: of the runs that reach min_steps, min_steps times
    this, times this again …, about one in so many goes on.
    """

    min_steps: Annotated[int, Field(ge=1)]
    reduction_factor: Annotated[int, Field(ge=2)] = 3


@dataclass(frozen=True, config=STRICT)
class SweepConfig:
    """What is varied. `runs` names each run's settings; `grid` makes one run for every combination of values; or
    each of several `recipes` is a run.

    recipe, recipes: YAML files relative to the sweep's; settings: `key=value` for every run; seeds: each run once a
    seed; asha: stop runs early whose validation loss is hopeless.
    """

    experiment: str
    recipe: str | None = None
    recipes: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    runs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    grid: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    probes: tuple[ProbeConfig, ...] = ()
    asha: ASHAConfig | None = None


class Planned(NamedTuple):
    """One run to come: its name in runs/ and everything that it is trained with."""

    name: str
    recipe: Recipe


class Failed(NamedTuple):
    """A run that could not be trained to its end, and why."""

    name: str
    reason: str


class Outcome(NamedTuple):
    """What came of one run; `reason` is why it failed, `stopped` whether it was hopeless."""

    name: str
    run: Run | None
    reason: str = ""
    stopped: bool = False


@dataclass(frozen=True)
class Halving:
    """Whether a run of a sweep is hopeless: at each rung its loss is compared with those that were there before it.

    A rung is a folder with a file for each run, so that every machine that sees it decides alike, and a kill forgets
    nothing. (Ray Tune's scheduler would have to own the trials, and knows nothing of runs that are finished.) The rule
    is Tune's: stop where the loss is above the 1/reduction_factor quantile of those before. Which runs stop depends on
    the order in which they come; what a run gives that is not stopped does not.
    """

    folder: Path
    name: str
    config: ASHAConfig

    def __call__(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Called after a validation. Raises InputError where there is no validation loss."""
        if "valid/loss" not in metrics:
            remedy = "give data.valid or data.val_fraction, or drop asha"
            raise InputError(f"asha: run {self.name} has no validation loss to be compared by; {remedy}")
        rung = self.config.min_steps
        while rung <= step:
            file = self.folder / str(rung) / f"{self.name}.json"
            if not file.is_file():
                others = [float(json.loads(path.read_text())["loss"]) for path in file.parent.glob("*.json")]
                loss = metrics["valid/loss"]
                stop = bool(others) and loss > float(np.quantile(others, 1 / self.config.reduction_factor))
                write_json(file, {"loss": loss, "step": step, "of": len(others) + 1, "stopped": stop})
                if stop:
                    return True
            rung *= self.config.reduction_factor
        return self.stopped

    @property
    def stopped(self) -> bool:
        """Whether the run was stopped, now or by an earlier call of the sweep."""
        files = self.folder.glob(f"*/{self.name}.json")
        return any(json.loads(path.read_text())["stopped"] for path in files)


def plan(file: Path, overrides: Sequence[str] = ()) -> tuple[SweepConfig, list[Planned]]:
    """Every run of a sweep, in order; all recipes are checked before the first is trained.

    Raises:
        InputError: the sweep or any of its recipes is wrong, or it has neither or both of `runs` and `grid`.
    """
    if not file.is_file():
        raise InputError(f"sweep={file}: no such file; give a YAML sweep such as recipes/speech/steps.yaml")
    config = load(SweepConfig, file)
    if [bool(config.runs), bool(config.grid), bool(config.recipes)].count(True) != 1:
        kinds = "runs (NAME: [key=value]), grid (key: [values]) or recipes ([FILE])"
        raise InputError(f"{file}: give either {kinds}, one of them and no other")
    if bool(config.recipe) == bool(config.recipes):
        raise InputError(f"{file}: recipe={config.recipe}: must name the recipe of runs or grid; drop it with recipes")
    common = [f"experiment={config.experiment}", *config.settings]
    return config, [
        Planned(f"{file.stem}-{name}", load_config(source, [*common, *settings, f"seed={seed}", *overrides]))
        for (name, source, settings), seed in itertools.product(_variants(config, file.parent), config.seeds)
        for name in [name if len(config.seeds) == 1 else f"{name}-seed{seed}"]
    ]


def _variants(config: SweepConfig, folder: Path) -> Iterator[tuple[str, Path, Sequence[str]]]:
    """Name, recipe and own settings of each run."""
    for recipe in config.recipes:
        yield Path(recipe).stem, folder / recipe, ()
    source = folder / (config.recipe or "")
    for name, settings in config.runs.items():
        yield name, source, settings
    for values in itertools.product(*config.grid.values()) if config.grid else ():
        pairs = list(zip(config.grid, values, strict=True))
        name = "-".join(f"{key.rpartition('.')[2]}{_plain(value)}" for key, value in pairs)
        yield name, source, [f"{key}={json.dumps(value)}" for key, value in pairs]


def _plain(value: object) -> str:
    """A value as a part of a folder's name."""
    return "".join(character if character.isalnum() or character in ".-+" else "_" for character in str(value))


def sweep(
    file: Path,
    overrides: Sequence[str] = (),
    root: Path = RUNS,
    say: Callable[[str], None] | None = None,
    engine: Engine | None = None,
) -> tuple[SweepConfig, list[Run], list[Failed]]:
    """Train, probe and record every run of a sweep under one parent run in MLflow.

    What is finished is not done again, so the same call after a kill resumes. A run whose loss stops being a number,
    or whose folder holds a run with other settings, is reported and the others go on; a run that is stopped by a
    signal ends the sweep (its status is KILLED). `say` is told which run is next; without it nothing is shown.

    With an `engine` (`cpc.scale.ray`) its workers train the runs, each in one process; all must see `root`, the
    recipes' corpora and the tracking store.

    Raises:
        InputError: a recipe is wrong, or several machines would write to one SQLite file.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(f"sweep={file}: runs in one process; start it without torchrun, or train its runs one by one")
    config, planned = plan(file, overrides)
    client = connect(root)
    if engine is not None:
        check_store(client.tracking_uri)
    parent = _parent(client, config, file.stem, root)
    trainer = _RunTrainer(root, parent, file.stem, config, say is not None and engine is None)
    found: dict[str, Outcome] = {}

    def announced_runs() -> Iterator[Planned]:
        for number, each in enumerate(planned, 1):
            if say and engine is None:
                say(f"sweep {file.stem}: run {number} of {len(planned)}, {each.name}")
            yield each

    work = Work(f"sweep {file.stem}", announced_runs(), trainer.open, len(planned), 16000, "runs", ahead=0)
    status = "FAILED"
    try:
        for outcome in (engine or Threads()).run(work, progress=say is not None and engine is not None):
            found[outcome.name] = outcome
            if say and outcome.stopped:
                say(f"{outcome.name}: stopped early, its validation loss is behind the others'")
            if outcome.run and outcome.run.status == "KILLED" and not outcome.stopped:
                break
        ordered = [found[name] for name, _ in planned if name in found]
        killed = any(outcome.run and outcome.run.status == "KILLED" and not outcome.stopped for outcome in ordered)
        failed = [Failed(outcome.name, outcome.reason) for outcome in ordered if outcome.reason]
        status = "KILLED" if killed else "FAILED" if failed else "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        client.set_terminated(parent, status)
    return config, [outcome.run for outcome in ordered if outcome.run and not outcome.stopped], failed


def check_store(uri: str) -> None:
    """Raises InputError for a tracking store in a file, where the workers are on several machines."""
    from cpc.scale.ray import machines

    if (number := machines()) > 1 and not uri.startswith(("http:", "https:", "databricks", "postgresql", "mysql")):
        rule = f"{number} machines would write to one file, which network disks corrupt"
        raise InputError(f"MLFLOW_TRACKING_URI={uri}: {rule}; start `mlflow server` and name its http:// address there")


@dataclass(frozen=True)
class _RunTrainer:
    """Trains runs and probes them."""

    root: Path
    parent: str
    sweep: str
    config: SweepConfig
    progress: bool

    def open(self) -> Worker[Planned, Outcome]:
        return self._train

    def _train(self, blocks: Iterator[Planned], tick: Tick) -> Iterator[Outcome]:
        for name, recipe in blocks:
            outcome = self._train_one(name, recipe)
            tick(failed=bool(outcome.reason))
            yield outcome

    def _train_one(self, name: str, recipe: Recipe) -> Outcome:
        config = self.config
        halving = Halving(self.root / ".asha" / self.sweep, name, config.asha) if config.asha else None
        if halving and halving.stopped:
            return Outcome(name, None, stopped=True)
        try:
            run = train(recipe, name, self.root, progress=self.progress, parent=self.parent, hopeless=halving)
        except (NotFinite, RunExists) as error:
            return Outcome(name, None, str(error))
        if run.status != "KILLED":
            for probe in config.probes:
                _evaluate(probe, recipe, run.path, self.progress)
        return Outcome(name, run, stopped=halving is not None and halving.stopped)


def _evaluate(probe: ProbeConfig, recipe: Recipe, run: Path, progress: bool) -> None:
    from cpc.device import device
    from cpc.evaluation.probes.probe import probe_and_record

    probe_and_record(
        probe.task,
        run,
        probe.corpus or recipe.data.corpus,
        probe.train,
        probe.test,
        layers=probe.layers,
        device=str(device(recipe.training.device)),
        progress=progress,
    )


def _parent(client: "MlflowClient", config: SweepConfig, name: str, root: Path) -> str:
    """The sweep's own run in MLflow, made on first use; its children name it as their parent."""
    where = experiment_id(client, config.experiment, root)
    known = client.search_runs([where], f"tags.kind = '{SWEEP}' and tags.sweep = '{name}'", max_results=1)
    if known and is_active(client, known[0].info.run_id):
        client.update_run(known[0].info.run_id, status="RUNNING")
        return str(known[0].info.run_id)
    return str(client.create_run(where, run_name=name, tags={"kind": SWEEP, "sweep": name}).info.run_id)
