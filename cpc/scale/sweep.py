"""A sweep: one recipe trained under several settings, each run probed, all compared; it resumes where it stopped."""

import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field
from pydantic.dataclasses import dataclass

from cpc.config import STRICT, InputError, load
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
class SweepConfig:
    """What is varied. `runs` names each run's settings; `grid` makes one run for every combination of values; or
    each of several `recipes` is a run.

    recipe, recipes: YAML files relative to the sweep's; settings: `key=value` for every run; seeds: each run once a
    seed.
    """

    experiment: str
    recipe: str | None = None
    recipes: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    runs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    grid: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    probes: tuple[ProbeConfig, ...] = ()


class Planned(NamedTuple):
    """One run to come: its name in runs/ and everything that it is trained with."""

    name: str
    recipe: Recipe


class Failed(NamedTuple):
    """A run that could not be trained to its end, and why."""

    name: str
    reason: str


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
    file: Path, overrides: Sequence[str] = (), root: Path = RUNS, say: Callable[[str], None] | None = None
) -> tuple[SweepConfig, list[Run], list[Failed]]:
    """Train, probe and record every run of a sweep under one parent run in MLflow.

    What is finished is not done again, so the same call after a kill resumes. A run whose loss stops being a number,
    or whose folder holds a run with other settings, is reported and the others go on; a run that is stopped by a
    signal ends the sweep (its status is KILLED). `say` is told which run is next; without it nothing is shown.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(f"sweep={file}: runs in one process; start it without torchrun, or train its runs one by one")
    config, planned = plan(file, overrides)
    client = connect(root)
    parent = _parent(client, config, file.stem, root)
    done: list[Run] = []
    failed: list[Failed] = []
    status = "FAILED"
    try:
        for number, (name, recipe) in enumerate(planned, 1):
            if say:
                say(f"sweep {file.stem}: run {number} of {len(planned)}, {name}")
            try:
                done.append(train(recipe, name, root, progress=say is not None, parent=parent))
            except (NotFinite, RunExists) as error:
                failed.append(Failed(name, str(error)))
                continue
            if done[-1].status == "KILLED":
                break
            for probe in config.probes:
                _evaluate(probe, recipe, done[-1].path, say is not None)
        killed = bool(done) and done[-1].status == "KILLED"
        status = "KILLED" if killed else "FAILED" if failed else "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        client.set_terminated(parent, status)
    return config, done, failed


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
