"""Verification results as a table for a terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from cpc.evaluation.verification.result import VerificationResult
from cpc.evaluation.verification.score import Estimate


def verification_table(results: Sequence[VerificationResult]) -> Table:
    """One row a result: EER and minimum costs with their 95% intervals over speakers, and what was compared."""
    first = results[0]
    where = f"{first.corpus} {Path(first.test).name}" + (", other chapters" if first.other_chapters else "")
    title = f"{where}: speaker verification, 95% over speakers; chance is 50% and 1"
    table = Table(title=title, title_justify="left")
    table.add_column("features")
    for name in ("EER %", *(f"minDCF({prior})" for prior in first.min_dcf), "targets", "non-targets", "speakers"):
        table.add_column(name, justify="right")
    for r in results:
        costs = (_interval(cost, "{:.3f}", 1.0) for cost in r.min_dcf.values())
        counts = (f"{n:,}" for n in (r.targets, r.non_targets, r.speakers))
        table.add_row(r.features, _interval(r.eer, "{:.2f}", 100.0), *costs, *counts)
    return table


def _interval(estimate: Estimate, form: str, times: float) -> str:
    value, low, high = (form.format(times * number) for number in estimate)
    return f"{value} [{low}, {high}]"
