"""The result of an ABX task: an error, its interval, and the conditions without which it means nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import torch
from jaxtyping import Float64, Int64
from rich.table import Table

from cpc.config import InputError
from cpc.evaluation.abx.cells import (
    MOST_ITEMS,
    MOST_SPEAKERS,
    Cells,
    Context,
    Groups,
    Speaker,
    drop_unused,
    make_cells,
    make_groups,
)
from cpc.evaluation.abx.distance import Distance
from cpc.evaluation.abx.items import FeatureStore, Items, Slicing
from cpc.evaluation.abx.score import REPLICATES, Distances, ErrorSummary, Stretches, measure, score_cells, summarise
from cpc.evaluation.results import Identity, Saved, joined, letters


@dataclass(frozen=True)
class ABXResult(Saved):
    """How often features put X nearer to the wrong phone.

    error, low, high: share of triplets, averaged as `score` says, and its 95% interval over `resampled`, 0 to 1; 0.5
        is chance.
    unit: triphone, phone, or items where they were read from a file.
    items, speakers, cells, triplets: how many were compared; phone_pairs: how many ordered pairs there are.
    pair_errors: A → B → error, for each ordered pair of phones.
    protocol: how it was measured, in one sentence; notes: what a reader has to know before comparing it.
    labels: the alignment that the items are of. fingerprint: of the items and the audio, and subject: of features whose
        name does not say all, such as random weights; both are empty in results of older versions.
    """

    KIND: ClassVar[str] = "ABX result"
    FOLDER: ClassVar[str] = "abx"

    features: str
    error: float
    low: float
    high: float
    resampled: str
    speaker: str
    context: str
    unit: str
    distance: str
    slicing: str
    most_items: int | None
    most_speakers: int | None
    seed: int
    corpus: str
    split: str
    items: int
    speakers: int
    cells: int
    triplets: int
    phone_pairs: int
    pair_errors: Mapping[str, Mapping[str, float]]
    protocol: str
    notes: tuple[str, ...] = ()
    labels: str = "phones"
    fingerprint: str = ""
    subject: str = ""

    @property
    def task(self) -> str:
        """SPEAKER-CONTEXT, and whatever differs from the usual: numbers of different tasks never share a name."""
        usual = {"distance": "angular", "slicing": "centre", "unit": usual_unit(self.context), "seed": 0}
        usual |= {"most_items": 10} | ({"most_speakers": 5} if self.speaker == "across" else {})
        other = [f"{name}_{getattr(self, name)}" for name, value in usual.items() if getattr(self, name) != value]
        return "-".join([self.speaker, self.context, *(letters(word) for word in other)])

    @property
    def pairs(self) -> dict[tuple[str, str], float]:
        """The error of each ordered pair of phones (A and X, B)."""
        return {(a, b): error for a, row in self.pair_errors.items() for b, error in row.items()}

    @property
    def identity(self) -> Identity:
        """Of the split, or of the whole corpus."""
        labels = "" if self.labels == "phones" else f"labels_{self.labels}"
        where = joined(Path(self.split).stem, self.corpus, labels, self.fingerprint)
        return Identity("abx", self.task, where, joined(self.slug, self.subject))

    def metrics(self) -> dict[str, float]:
        """The error with its interval."""
        return {"error": self.error, "low": self.low, "high": self.high}

    @property
    def description(self) -> str:
        """Corpus, split and protocol."""
        return f"{self.corpus} {self.split}: {self.protocol}"


def usual_unit(context: str) -> str:
    """Triphones are compared within a context; where contexts are ignored, phones alone."""
    return "triphone" if context == "within" else "phone"


# --- One ABX task on one kind of features, from items to a result.


FEW = 8  # speakers, below which an interval over speakers is too narrow to be relied on


@dataclass(frozen=True)
class ABXTask:
    """What is compared with what. `most_items` of a group, `most_speakers` for the X of each A; None: all.

    Raises InputError for numbers with which there would be nothing to compare.
    """

    speaker: Speaker = "within"
    context: Context = "within"
    distance: Distance = "angular"
    slicing: Slicing = "centre"
    most_items: int | None = MOST_ITEMS
    most_speakers: int | None = MOST_SPEAKERS
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("most_items", 2), ("most_speakers", 1)):
            if (value := getattr(self, name)) is not None and value < least:
                raise InputError(f"{name}={value}: must be {least} or more")

    @classmethod
    def named(
        cls, speaker: str, context: str, distance: str = "angular", slicing: str = "centre", **rest: Any
    ) -> "ABXTask":
        """The task of words typed by a user. Raises InputError for a word that is not known."""
        return cls(
            choose("speaker", speaker, Speaker),
            choose("context", context, Context),
            choose("distance", distance, Distance),
            choose("slicing", slicing, Slicing),
            **rest,
        )


def choose(name: str, value: str, choices: Any) -> Any:
    """`value`, if it is one of the words of a Literal; else InputError."""
    if value not in get_args(choices):
        raise InputError(f"{name}={value}: must be one of {', '.join(get_args(choices))}")
    return value


@dataclass(frozen=True)
class Comparison:
    """All that came out: the cells with their scores, over groups of items that have frames."""

    groups: Groups
    cells: Cells
    scores: Float64[np.ndarray, " cell"]
    distances: Distances
    phones: list[str]
    empty: int  # items that were drawn and have no frame


def compare(bank: FeatureStore, items: Items, task: ABXTask, device: str = "cpu") -> Comparison:
    """Score every cell. Raises InputError where there is nothing to compare."""
    groups, names = make_groups(items, task.context, task.most_items, task.seed)
    starts, counts = bank.slice(items, task.slicing)
    framed = counts[groups.members] > 0
    drawn = groups.keep(framed)
    cells = make_cells(drawn, names, task.speaker, task.most_speakers, task.seed)
    if not len(cells):
        same = "one speaker twice" if task.speaker == "within" else "two speakers"
        rule = f"no phone was said by {same} where another was said" + (
            " in the same context" if task.context == "within" else ""
        )
        raise InputError(f"items: {len(items)}, of which {len(framed)} compared: {rule}; give more speech")
    used, cells = drop_unused(drawn, cells)
    stretches = Stretches(bank.table.frames, starts[used.members], counts[used.members])
    distances = measure(used, cells, stretches, task.distance, torch.device(device))
    return Comparison(used, cells, score_cells(distances, cells), distances, names.phones, int((~framed).sum()))


def abx(
    bank: FeatureStore,
    items: Items,
    task: ABXTask | None = None,
    *,
    unit: str = "items",
    corpus: str = "",
    split: str = "",
    device: str = "cpu",
    notes: Sequence[str] = (),
) -> ABXResult:
    """The ABX error of the features in `bank` on `items`.

    `unit`, `corpus` and `split` say what the items are, `notes` what a reader has to know besides. Raises InputError
    for files without features, values that are not finite, and items among which there is nothing to compare.
    """
    task = task or ABXTask()
    found = compare(bank, items, task, device)
    summary = summarise(found.groups, found.cells, found.scores, len(found.phones), task.seed)
    return ABXResult(
        features=bank.name,
        error=summary.error,
        low=summary.low,
        high=summary.high,
        resampled=summary.resampled,
        speaker=task.speaker,
        context=task.context,
        unit=unit,
        distance=task.distance,
        slicing=task.slicing,
        most_items=task.most_items,
        most_speakers=task.most_speakers,
        seed=task.seed,
        corpus=corpus,
        split=split,
        items=len(found.groups.members),
        speakers=len(np.unique(found.groups.speaker)),
        cells=len(found.cells),
        triplets=int(_triplets(found).sum()),
        phone_pairs=int(np.isfinite(summary.pairs).sum()),
        pair_errors=_pair_errors(found, summary),
        protocol=_protocol(task, unit),
        notes=(*notes, *_notes(found, summary)),
    )


def _triplets(found: Comparison) -> Int64[np.ndarray, " cell"]:
    sizes, cells = found.groups.sizes, found.cells
    triplets: Int64[np.ndarray, " cell"] = (sizes[cells.x] - cells.symmetric) * sizes[cells.a] * sizes[cells.b]
    return triplets


def _pair_errors(found: Comparison, summary: ErrorSummary) -> dict[str, dict[str, float]]:
    errors: dict[str, dict[str, float]] = {}
    for a, b in np.argwhere(np.isfinite(summary.pairs)).tolist():
        errors.setdefault(found.phones[a], {})[found.phones[b]] = float(summary.pairs[a, b])
    return errors


def _notes(found: Comparison, summary: ErrorSummary) -> list[str]:
    notes, speakers = [], len(np.unique(found.groups.speaker))
    if found.empty:
        notes.append(f"{found.empty} items that were drawn are shorter than a frame, or lie beyond the last: skipped.")
    if summary.resampled == "phone pairs":
        notes.append("One speaker: the interval resamples pairs of phones and says nothing about other speakers.")
    elif speakers < FEW:
        notes.append(f"{speakers} speakers: an interval over so few is too narrow.")
    return notes


def _protocol(task: ABXTask, unit: str) -> str:
    what = {"within": "X by the speaker of A and B", "across": "X by another speaker than A and B"}[task.speaker]
    where = {"within": "between the same two phones", "any": "wherever they occur"}[task.context]
    slicing = {"centre": "frames centred within the item", "librilight": "the same without the last frame"}[
        task.slicing
    ]
    caps = f"at most {task.most_items or 'all'} items of a group"
    if task.speaker == "across":
        caps += f" and {task.most_speakers or 'all'} speakers for X"
    items = "the items of a file" if unit == "items" else f"{unit}s"
    return (
        f"ABX on {items}: {what}, {where};"
        f" {slicing}; {task.distance} distance along the path of dynamic time warping, by its length; {caps}, seed"
        f" {task.seed}; ties ½; mean over contexts, speakers, phone pairs; {REPLICATES} bootstrap replicates"
    )


# --- ABX results as a table for a terminal.


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
