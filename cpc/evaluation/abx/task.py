"""One ABX task on one kind of features, from items to a result.

The machine ABX test: of A and X, which are the same phone, and B, which is another, is X nearer to A? Chance is 50%
error; no classifier is trained, and no label but the phones' names is used (Schatz et al. 2013; Schatz 2016).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float64, Int64

from cpc.config import InputError
from cpc.evaluation.abx.bank import Bank
from cpc.evaluation.abx.distance import Distance
from cpc.evaluation.abx.groups import (
    MOST_ITEMS,
    MOST_SPEAKERS,
    Cells,
    Context,
    Groups,
    Speaker,
    make_cells,
    make_groups,
    only_used,
)
from cpc.evaluation.abx.items import Items
from cpc.evaluation.abx.pairs import Distances, Stretches, measure
from cpc.evaluation.abx.result import ABXResult
from cpc.evaluation.abx.score import REPLICATES, Summary, score_cells, summarise
from cpc.evaluation.abx.slicing import Slicing

FEW = 8  # speakers, below which an interval over speakers is too narrow to be relied on


@dataclass(frozen=True)
class Task:
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
    ) -> "Task":
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


def compare(bank: Bank, items: Items, task: Task, device: str = "cpu") -> Comparison:
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
    used, cells = only_used(drawn, cells)
    stretches = Stretches(bank.table.frames, starts[used.members], counts[used.members])
    distances = measure(used, cells, stretches, task.distance, torch.device(device))
    return Comparison(used, cells, score_cells(distances, cells), distances, names.phones, int((~framed).sum()))


def abx(
    bank: Bank,
    items: Items,
    task: Task | None = None,
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
    task = task or Task()
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


def _pair_errors(found: Comparison, summary: Summary) -> dict[str, dict[str, float]]:
    errors: dict[str, dict[str, float]] = {}
    for a, b in np.argwhere(np.isfinite(summary.pairs)).tolist():
        errors.setdefault(found.phones[a], {})[found.phones[b]] = float(summary.pairs[a, b])
    return errors


def _notes(found: Comparison, summary: Summary) -> list[str]:
    notes, speakers = [], len(np.unique(found.groups.speaker))
    if found.empty:
        notes.append(f"{found.empty} items that were drawn are shorter than a frame, or lie beyond the last: left out.")
    if summary.resampled == "phone pairs":
        notes.append("One speaker: the interval resamples pairs of phones and says nothing about other speakers.")
    elif speakers < FEW:
        notes.append(f"{speakers} speakers: an interval over so few is too narrow.")
    return notes


def _protocol(task: Task, unit: str) -> str:
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
