"""The command line: verbs and a few options. Settings are never flags; they are `key=value` over a recipe."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cpc.config import InputError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    help="Contrastive Predictive Coding on audio: train, probe, embed and compare speech representations.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
probe_app = typer.Typer(help="Judge a run's features with a linear probe.", no_args_is_help=True)
app.add_typer(probe_app, name="probe")

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run, runs/NAME.")]
CorpusFolder = Annotated[Path, typer.Argument(metavar="CORPUS", help="A packed corpus, data/NAME.")]
TrainSplit = Annotated[str, typer.Option("--train", help="Split of the corpus to fit the classifier on.")]
TestSplit = Annotated[str, typer.Option("--test", help="Split of the corpus to judge it on.")]
Baselines = Annotated[bool, typer.Option(help="Also run MFCC, log-mel and random init (computed once, then cached).")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]


class Layer(StrEnum):
    """What can be taken from a model."""

    z = "z"
    c = "c"


def main() -> None:
    """Run the command line; a mistake of the user's becomes clear lines and exit status 2."""
    try:
        app()
    except InputError as error:
        for line in str(error).splitlines():
            print(f"cpc: {line}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("cpc: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not type(error).__module__.startswith("mlflow"):
            raise
        print(f"cpc: MLflow: {' '.join(str(error).split())}; is MLFLOW_TRACKING_URI right?", file=sys.stderr)
        sys.exit(1)


def _say_version(wanted: bool) -> None:
    if wanted:
        from cpc.version import __version__

        print(f"cpc {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_say_version)
    ] = False,
) -> None:
    """Contrastive Predictive Coding on audio: train, probe, embed and compare speech representations."""


@app.command()
def train(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="RECIPE [KEY=VALUE]...", help="A YAML recipe, then settings such as optim.lr=4e-4."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the run: it is kept in runs/NAME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Folder of a run to go on with.")] = None,
) -> None:
    """Train a model, tracked and checkpointed. Ctrl-C saves and stops; --resume runs/NAME goes on."""
    from cpc.training.meter import NotFinite
    from cpc.training.recipe import load_config
    from cpc.training.run import resume as go_on
    from cpc.training.run import train as begin

    words = words or []
    try:
        if resume is not None:
            run = go_on(resume, words)
        elif not words or "=" in words[0]:
            raise InputError("RECIPE: must be given first, for example: cpc train recipes/demo/cpc.yaml --name first")
        else:
            run = begin(load_config(words[0], words[1:]), name)
    except NotFinite as error:
        print(f"cpc: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    line = ", ".join(f"{k} {run.metrics[k]:.3f}" for k in ("train/loss", "valid/loss") if k in run.metrics)
    print(f"{run.path}: {run.status.lower()} at step {run.steps} after {run.seconds / 60:.1f} min; {line}")
    if run.status == "KILLED":
        print(f"go on with: cpc train --resume {run.path}")
        raise typer.Exit(130)


@probe_app.command("phone")
def probe_phone(
    run: RunFolder,
    corpus: CorpusFolder,
    train: TrainSplit = "phone_train",
    test: TestSplit = "phone_test",
    layer: Annotated[list[Layer] | None, typer.Option(help="z, c, or both (the default).")] = None,
    baselines: Baselines = True,
    device: Device = "auto",
) -> None:
    """Phones, frame by frame: a linear softmax classifier on frozen features."""
    _probe("phone", run, corpus, train, test, layer, baselines, device)


@probe_app.command("speaker")
def probe_speaker(
    run: RunFolder,
    corpus: CorpusFolder,
    train: TrainSplit = "speaker_train",
    test: TestSplit = "speaker_test",
    layer: Annotated[list[Layer] | None, typer.Option(help="z, c, or both (the default).")] = None,
    baselines: Baselines = True,
    device: Device = "auto",
) -> None:
    """Speakers, by single frames and by utterance means: two different numbers, each named."""
    _probe("speaker", run, corpus, train, test, layer, baselines, device)


def _probe(
    task: str,
    run: Path,
    corpus: Path,
    train: str,
    test: str,
    layer: list[Layer] | None,
    baselines: bool,
    device: str,
) -> None:
    from cpc.distributed import device as find_device
    from cpc.evaluation.record import probe_and_record
    from cpc.evaluation.show import probe_table

    results = probe_and_record(
        "phone" if task == "phone" else "speaker",
        run,
        corpus,
        train,
        test,
        layers=[each.value for each in layer or list(Layer)],
        baselines=baselines,
        device=str(find_device(device)),
    )
    _console().print(probe_table(results))
    for note in dict.fromkeys(note for result in results for note in result.notes):
        print(f"note: {note}")


@app.command()
def embed(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="runs/NAME, or a .safetensors checkpoint.")],
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="An audio file, or a folder of them.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the .npy files.")],
    layer: Annotated[Layer, typer.Option(help="z: local, without memory; c: with context.")] = Layer.c,
    device: Device = "auto",
) -> None:
    """Write one float32 .npy (frames × dim) for each audio file; subfolders are kept."""
    from cpc.distributed import device as find_device
    from cpc.evaluation.embed import embed as embed_files
    from cpc.model import load

    done = embed_files(load(model, find_device(device)), source, out, layer.value, progress=True)
    for path, reason in done.skipped:
        print(f"skipped {path}: {reason}", file=sys.stderr)
    print(f"{len(done.written)} files written to {out}, {len(done.skipped)} skipped")
    if not done.written:
        raise typer.Exit(1)


@app.command()
def compare(
    experiment: Annotated[str, typer.Argument(help="Name of an experiment in MLflow (`experiment:` of its recipes).")],
    out: Annotated[Path, typer.Option(help="Folder for the CSV and the picture.")] = Path("runs"),
) -> None:
    """One table of an experiment's runs: settings that differ, results with intervals; also CSV and curves."""
    from cpc.curves import draw, history
    from cpc.evaluation import compare as comparison
    from cpc.tracking import connect

    rows = comparison.rows(experiment)
    _console().print(comparison.render(rows, f"experiment {experiment}: accuracy with its 95% interval, * best"))
    out.mkdir(parents=True, exist_ok=True)
    print(f"table: {comparison.write_csv(rows, out / f'compare-{experiment}.csv')}")
    client = connect()
    trained = [run for run in comparison.runs(experiment) if run.data.tags.get("kind") != comparison.BASELINE]
    curves = {run.info.run_name: history(client, run.info.run_id) for run in trained}
    if curves:
        print(f"training curves: {draw(curves, out / f'compare-{experiment}.png')}")
    print("everything in MLflow: make ui")


def _console() -> "Console":
    """A console that keeps tables whole when the output is not a terminal."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)
