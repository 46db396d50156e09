"""ABX results as a table for a terminal."""

from collections.abc import Sequence

from rich.table import Table

from cpc.evaluation.abx.result import ABXResult


def abx_table(results: Sequence[ABXResult]) -> Table:
    """One row a result: error, its 95% interval, and what it was measured on."""
    first = results[0]
    where = " ".join(part for part in (first.corpus, first.split) if part)
    title = f"{where}: ABX, {first.speaker} speakers, {first.context} context, {first.unit}; error % (chance is 50)"
    table = Table(title=title, title_justify="left")
    table.add_column("features")
    for name in ("error %", f"95% over {first.resampled}", "items", "speakers", "cells", "triplets"):
        table.add_column(name, justify="right")
    for r in results:
        numbers = (f"{100 * r.error:.2f}", f"{100 * r.low:.2f} – {100 * r.high:.2f}")
        table.add_row(r.features, *numbers, *(f"{n:,}" for n in (r.items, r.speakers, r.cells, r.triplets)))
    return table
