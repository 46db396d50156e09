"""Results as tables for a terminal."""

from collections.abc import Sequence

from rich.table import Table

from cpc.evaluation.results import ProbeResult


def probe_table(results: Sequence[ProbeResult]) -> Table:
    """One row a result: accuracy, its 95% intervals over utterances and speakers, and what it was measured on.

    The phone error rate is an error: lower is better.
    """
    first = results[0]
    title = f"{first.corpus}: {first.train} → {first.test}; accuracy % with its 95% interval"
    table = Table(title=title, title_justify="left")
    for name in ("task", "classifier", "features"):
        table.add_column(name)
    for name in ("%", "over utterances", "over speakers", "majority %", "classes", "L2", "labels %"):
        table.add_column(name, justify="right")
    for name in ("test examples", "utterances"):
        table.add_column(name, justify="right")
    for r in sorted(results, key=lambda result: result.column):
        numbers = (_value(r), _interval(r, r.low, r.high), _interval(r, r.speakers_low, r.speakers_high))
        majority = "–" if r.task == "phone_sequence" else f"{100 * r.majority:.1f}"
        chosen = (majority, str(r.classes), "–" if r.l2 is None else f"{r.l2:.2g}", f"{r.budget:g}")
        counts = (f"{r.test_examples:,}", str(r.test_utterances))
        table.add_row(task_name(r), r.classifier.replace("_", " "), r.features, *numbers, *chosen, *counts)
    return table


def task_name(result: ProbeResult) -> str:
    """The task in words."""
    return "phone error rate" if result.task == "phone_sequence" else result.task.replace("_", " ")


def _value(result: ProbeResult) -> str:
    return f"{100 * (result.error if result.task == 'phone_sequence' else result.accuracy):.1f}"


def _interval(result: ProbeResult, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "–"
    low, high = (1 - high, 1 - low) if result.task == "phone_sequence" else (low, high)
    return f"{100 * low:.1f} – {100 * high:.1f}"
