"""Results as tables for a terminal."""

from collections.abc import Sequence

from rich.table import Table

from cpc.evaluation.result import ProbeResult


def probe_table(results: Sequence[ProbeResult]) -> Table:
    """One row a result: accuracy, its 95% interval, and what it was measured on."""
    first = results[0]
    title = f"{first.corpus}: {first.train} → {first.test}; linear probe, accuracy % with its 95% interval"
    table = Table(title=title, title_justify="left")
    for name in ("task", "features"):
        table.add_column(name)
    for name in ("accuracy %", "interval", "majority %", "classes", "test examples", "utterances"):
        table.add_column(name, justify="right")
    for r in sorted(results, key=lambda result: result.task):
        numbers = (f"{100 * r.accuracy:.1f}", f"{100 * r.low:.1f} – {100 * r.high:.1f}", f"{100 * r.majority:.1f}")
        counts = (str(r.classes), f"{r.test_examples:,}", str(r.test_utterances))
        table.add_row(r.task.replace("_", " "), r.features, *numbers, *counts)
    return table
