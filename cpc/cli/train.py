"""Verbs that train: one run, and a sweep of them."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cpc.cli.arguments import Address, Cpus, EngineName, Gpus, Workers, complain, open_device
from cpc.config import InputError

if TYPE_CHECKING:
    from cpc.training.run import Run


def train(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="RECIPE [KEY=VALUE]...", help="A YAML recipe, then settings such as optim.lr=4e-4."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run: it is kept in runs/NAME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Folder of a run to resume.")] = None,
    engine: EngineName = "local",
    address: Address = None,
    workers: Workers = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
) -> None:
    """Train a model, tracked and checkpointed. Ctrl-C saves and stops; --resume runs/NAME continues.

    On several devices: torchrun --nproc-per-node N -m cpc train RECIPE, or --engine ray --workers N.
    """
    from cpc.data.engine import check_engine
    from cpc.training.metrics import NotFinite
    from cpc.training.recipe import load_config
    from cpc.training.run import resume as resume_run
    from cpc.training.run import train as begin

    words = words or []
    check_engine(engine, {"address": address, "workers": workers, "cpus": cpus, "gpus": gpus})
    if resume is None and (not words or "=" in words[0]):
        raise InputError("RECIPE: must be given first, for example: cpc train recipes/demo/cpc.yaml --name first")
    try:
        if engine == "ray":
            from cpc.scale.training import train_on_ray

            run = train_on_ray(words, name, resume, address=address, workers=workers, cpus=cpus, gpus=gpus)
        elif resume is not None:
            open_device("auto")
            run = resume_run(resume, words)
        else:
            config = load_config(words[0], words[1:])
            open_device(config.training.device)
            run = begin(config, name)
    except NotFinite as error:
        complain(str(error))
        raise typer.Exit(1) from None
    if os.environ.get("RANK", "0") == "0":
        _say_result(run)
    if run.status == "KILLED":
        raise typer.Exit(130)


def _say_result(run: "Run") -> None:
    line = ", ".join(f"{k} {run.metrics[k]:.3f}" for k in ("train/loss", "valid/loss") if k in run.metrics)
    print(f"{run.path}: {run.status.lower()} at step {run.steps} after {run.seconds / 60:.1f} min; {line}")
    if run.status == "KILLED":
        print(f"resume with: cpc train --resume {run.path}")


def sweep(
    words: Annotated[
        list[str],
        typer.Argument(metavar="SWEEP [KEY=VALUE]...", help="A YAML sweep, then settings for all of its runs."),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check every recipe and list the runs; train none.")
    ] = False,
    engine: EngineName = "local",
    address: Address = None,
    workers: Workers = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
) -> None:
    """Train a recipe under several settings, probe each run, compare. The same command resumes after a kill.

    With --engine ray the runs are trained by the workers of a cluster, several at a time.
    """
    from cpc.scale.ray import engine_named
    from cpc.scale.sweep import plan
    from cpc.scale.sweep import sweep as run_sweep

    file, overrides = Path(words[0]), words[1:]
    if dry_run:
        config, planned = plan(file, overrides)
        for name, recipe in planned:
            print(f"{name}: {recipe.training.max_steps} steps, seed {recipe.seed}")
        print(f"{len(planned)} runs, each with {len(config.probes)} probes, in experiment {config.experiment}")
        return
    with engine_named(engine, address, workers, cpus, gpus) as chosen:
        if chosen is None:
            open_device("auto")
        config, done, failed = run_sweep(file, overrides, say=print, engine=chosen)
    for name, reason in failed:
        print(f"cpc: {name}: {reason}", file=sys.stderr)
    if done and done[-1].status == "KILLED":
        print(f"resume with: cpc sweep {' '.join(words)}")
        raise typer.Exit(130)
    from cpc.cli.evaluate import compare

    compare([config.experiment])
    if failed:
        raise typer.Exit(1)


def config(
    prefix: Annotated[
        str, typer.Argument(metavar="[PREFIX]", help="Only keys that begin so, such as optim or loss.score.")
    ] = "",
) -> None:
    """Every setting of a recipe: key, type, default and meaning. A preset is a recipe that changes some of them."""
    from rich.table import Table

    from cpc.cli.arguments import console
    from cpc.config import describe
    from cpc.training.recipe import Recipe

    keys = [key for key in describe(Recipe) if key.name.startswith(prefix)]
    if not keys:
        sections = ", ".join(dict.fromkeys(key.name.split(".")[0] for key in describe(Recipe)))
        raise InputError(f"prefix={prefix}: no setting begins so; give one of {sections}, or a longer one")
    table = Table(title="settings: in a YAML recipe, or as key=value on the command line", title_justify="left")
    for heading in ("key", "of kind", "type", "default", "meaning"):
        table.add_column(heading, overflow="fold")
    repeated = ("augment.future.", "loss.views.augment.")  # what augment.past has, once more
    asked = prefix.startswith(tuple(name.rstrip(".") for name in repeated))
    for key in keys:
        if asked or not key.name.startswith(repeated):
            table.add_row(key.name, key.within, key.type, key.default, key.meaning)
    console().print(table)
    if not asked and any(key.name.startswith(repeated) for key in keys):
        print("augment.future and loss.views.augment take what augment.past takes: cpc config augment.future")
