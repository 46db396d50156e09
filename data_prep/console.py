"""One way for every data_prep command to meet its user: a clear line for a mistake, never a traceback."""

from __future__ import annotations

import sys

import typer

from cpc.config import InputError


def run(app: typer.Typer) -> None:
    """Run a typer app: an `InputError` becomes one line on stderr and exit code 2; Ctrl-C gives 130."""
    try:
        app()
    except InputError as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("interrupted: the same command continues where it stopped", err=True)
        sys.exit(130)
