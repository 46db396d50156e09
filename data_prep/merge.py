"""Merge packed corpora into one: what several machines packed with --shard, or corpora that belong together.

python -m data_prep.merge PART PART ... --out OUT
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from cpc.data.merge import MergeReport, merge
from data_prep.console import run

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

Parts = Annotated[list[Path], typer.Argument(help="Packed corpora of one sample rate.", metavar="PART...")]
Out = Annotated[Path, typer.Option(help="Folder of the merged corpus.")]
Link = Annotated[bool, typer.Option("--link/--copy", help="Share the audio with the parts where the disk allows it.")]


@app.command()
def main(parts: Parts, *, out: Out, link: Link = True) -> None:
    """Merge packed corpora into one, with their splits, labels and lists of skipped files.

    The audio is hard-linked: it takes no more room, and the parts may be deleted afterwards. The order of the
    parts does not matter. Killed at any moment, the same command continues.
    """
    start = time.monotonic()
    report = merge(parts, out, link=link)
    amount = f"{len(parts)} corpora: {report.utterances} utterances, {report.seconds / 3600:.2f} h"
    if not report.fresh:
        typer.echo(f"{out} already holds these {amount}: nothing to merge")
        return
    typer.echo(f"merged {amount} into {out} in {time.monotonic() - start:.1f} s")
    _say(report, out)


def _say(report: MergeReport, out: Path) -> None:
    linked = f"{report.shards - report.copied} linked to the parts, {report.copied} copied"
    typer.echo(f"shards: {report.shards}, {linked}")
    for name, ids in report.splits.items():
        typer.echo(f"split {name}: {ids} ids")
    for scheme, labelled in report.labels.items():
        without = ", ".join(map(str, report.without[scheme]))
        coverage = f"labels {scheme}: {labelled} of {report.utterances} utterances"
        typer.echo(coverage + (f"; no such labels in {without}" if without else ""))
    if report.left:
        typer.echo(f"left in the parts: {', '.join(map(str, report.left))}")
    where = f": see {out / 'skipped.tsv'}" if report.skipped else ""
    typer.echo(f"skipped when the parts were packed: {report.skipped} files{where}")


if __name__ == "__main__":
    run(app)
