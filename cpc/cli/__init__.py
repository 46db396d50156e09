"""The command line: verbs and a few options. Settings are never flags; they are `key=value` over a recipe."""

import os
import sys
from typing import Annotated

import typer

from cpc.cli import data, embed, evaluate, export, probe, train
from cpc.cli.arguments import complain
from cpc.config import InputError


def main() -> None:
    """Run the command line; a mistake of the user's becomes clear lines and exit status 2."""
    # Read by torch when it first allocates: on Linux, tensors of 2 MB and more lie in huge pages, where a training
    # step of the preset `small` on a CPU has 7,000 page faults instead of 90,000 and is 9 to 20% faster
    # (benchmarks/allocator.py). Set it to 0 to have torch as it comes.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # Pictures go into files. A notebook's backend, which `!cpc` there would inherit, may not even be installed here.
    os.environ["MPLBACKEND"] = "agg"
    try:
        app()
    except InputError as error:
        complain(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        print("cpc: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        from cpc.io import DiskFull, disk_is_full

        said = " ".join(str(error).split())
        if disk_is_full(error):
            complain(str(DiskFull(getattr(error, "filename", None) or type(error).__module__.partition(".")[0])))
        elif isinstance(error, PermissionError | NotADirectoryError | IsADirectoryError | FileExistsError):
            complain(f"{error.filename}: cannot be used ({error.strerror}); name another place, or fix that")
        elif type(error).__module__.startswith(("mlflow", "sqlalchemy")):
            print(f"cpc: MLflow: {said}; is MLFLOW_TRACKING_URI right?", file=sys.stderr)
        else:
            raise
        sys.exit(1)


def _say_version(wanted: bool) -> None:
    if wanted:
        from cpc.version import __version__

        print(f"cpc {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_say_version)
    ] = False,
) -> None:
    """Contrastive Predictive Coding on audio: train, probe, embed and compare speech representations."""


app = typer.Typer(
    help="Contrastive Predictive Coding on audio: train, probe, embed and compare speech representations.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.callback()(_options)
for verb in (
    train.train,
    train.sweep,
    train.config,
    embed.corpus,
    embed.embed,
    probe.probe,
    evaluate.evaluate,
    evaluate.abx,
    evaluate.verify,
    evaluate.compare,
    evaluate.figures,
    evaluate.units,
    export.convert,
    export.export,
):
    app.command()(verb)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})(
    data.data
)
