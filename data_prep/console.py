"""One way for every data_prep command to meet its user: a clear line for a mistake, never a traceback."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import typer

from cpc.config import InputError
from cpc.data.pack import PackReport
from cpc.io import DiskFull, disk_is_full


def run(app: typer.Typer) -> None:
    """Run a typer app: an `InputError` becomes one line on stderr and exit code 2; Ctrl-C gives 130."""
    try:
        app()
    except InputError as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(2)
    except Exception as error:
        if not disk_is_full(error):
            raise
        typer.echo(f"error: {DiskFull(getattr(error, 'filename', None) or 'output')}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("interrupted: the same command continues where it stopped", err=True)
        sys.exit(130)


def say_packed(report: PackReport, out: Path, start: float) -> None:
    """Say what came of packing into `out` since `start` (time.monotonic). Raises InputError if nothing did."""
    seconds = time.monotonic() - start
    amount = f"{report.packed} utterances, {report.seconds / 3600:.2f} h"
    if report.fresh:
        typer.echo(f"packed {amount} into {out} in {seconds:.1f} s ({report.seconds / seconds:,.0f} × real time)")
    else:
        typer.echo(f"{out} already holds this corpus ({amount}): nothing to pack")
    where = out / "skipped.tsv"
    if not report.packed:
        raise InputError(f"audio: none of the {report.skipped} files could be decoded; {where} says why")
    about = f" or parts of files that give no usable audio: see {where}" if report.skipped else ""
    typer.echo(f"skipped {report.skipped} files{about}")
    if report.notes:
        typer.echo(f"{report.notes} files have a wrong length in their header and were taken: see {out / 'notes.tsv'}")
