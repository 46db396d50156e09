"""The part of the training split on which choices are made; the test set has no part in them.

What is held out is what the test holds out: whole speakers where phones are evaluated on other speakers, other chapters
where speakers are evaluated across chapters, other utterances elsewhere.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from cpc.data.corpus import Corpus
from cpc.data.splits import has_speaker, overlap
from cpc.evaluation.features import Features, FrameTable
from cpc.evaluation.probes.protocol import ProbeSetup, Rows
from cpc.evaluation.results import ProbeTask
from cpc.seeding import derive

SHARE = 0.2
ENOUGH = 5  # speakers, from which whole ones are held out


class HeldOut(NamedTuple):
    """Which training utterances are held out (none where there is only one), and what they are in words."""

    out: Bool[np.ndarray, " utterance"]
    words: str


def hold_out(task: ProbeTask, corpus: Corpus, train: Rows, test: Rows, seed: int, share: float = SHARE) -> HeldOut:
    """About `share` of the training utterances, as different from the rest as the test is."""
    speakers, chapters, ids = (_names(column, train) for column in (corpus.speakers, corpus.chapters, corpus.ids))
    if not task.startswith("speaker"):
        if len(set(speakers) - {""}) >= ENOUGH:
            return _held(speakers, share, seed, "training speakers")
        return _held(ids, share, seed, "training utterances")
    sessions = [f"{speaker}/{chapter}" for speaker, chapter in zip(speakers, chapters, strict=True)]
    apart = overlap(corpus, train, test).chapters == 0 and len(set(sessions)) > len(set(speakers))
    return _within(speakers, sessions if apart else ids, share, seed, "chapters" if apart else "utterances")


def _held(groups: Sequence[str], share: float, seed: int, words: str) -> HeldOut:
    known = [name for name in groups if name]  # utterances without a speaker are trained on
    chosen = _chosen(known, share, seed)
    return HeldOut(np.isin(groups, sorted(chosen)), f"{len(chosen)} of {len(set(known))} {words}")


def _within(speakers: Sequence[str], groups: Sequence[str], share: float, seed: int, words: str) -> HeldOut:
    """The same within each speaker, who has to stay among the others."""
    own: dict[str, list[str]] = {}
    for speaker, group in zip(speakers, groups, strict=True):
        own.setdefault(speaker, []).append(group)
    chosen = set[str]().union(*(_chosen(names, share, seed) for names in own.values()))
    return HeldOut(np.isin(groups, sorted(chosen)), f"{len(chosen)} of {len(set(groups))} training {words}")


def _chosen(groups: Sequence[str], share: float, seed: int) -> set[str]:
    """The first of the groups in the order of a hash: at least one on either side; none of a single group."""
    names = sorted(set(groups), key=lambda name: derive(seed, "validation", name))
    count = min(max(round(share * len(names)), 1), len(names) - 1)
    return set(names[:count])


def _names(column: Sequence[str], rows: Rows) -> list[str]:
    return [column[row] for row in rows.tolist()]


# --- Few labels: a share of the training utterances, drawn so that a larger share holds every smaller one.


BUDGETS = (1.0, 10.0, 100.0)  # percent


def labelled(task: ProbeTask, corpus: Corpus, rows: Rows, percent: float, seed: int) -> Bool[np.ndarray, " utterance"]:
    """Which of the rows have labels within a budget of `percent` of them, at least one.

    Utterances come in the order of a hash of the seed and their id. Where speakers are to be told apart they come
    speaker by speaker in turn, so that few labels leave no speaker out before each of the others has two.
    """
    order = sorted(rows.tolist(), key=lambda row: derive(seed, "budget", corpus.ids[row]))
    if task.startswith("speaker"):
        order = _in_turn(order, corpus.speakers)
    kept = order[: max(1, math.ceil(len(order) * percent / 100))]
    return np.isin(rows, kept)


def _in_turn(order: Sequence[int], speakers: Sequence[str]) -> list[int]:
    """Every speaker's first utterance, then every speaker's second, and so on."""
    seen: dict[str, int] = {}
    turns = []
    for place, row in enumerate(order):
        turn = seen.get(speakers[row], 0)
        seen[speakers[row]] = turn + 1
        turns.append((turn, place, row))
    return [row for _, _, row in sorted(turns)]


# --- What a classifier sees: vectors with their classes, cut from the frames of a table only when they are needed.


@dataclass(frozen=True)
class Examples:
    """Example i is frame places[i] of the table, with `context` frames of its utterance on either side.

    At the ends of an utterance its first and last frame are repeated. With 17 frames side by side the vectors of all
    examples would take 17 times the memory of the table, so they are put together for the asked ones alone.
    """

    table: FrameTable
    places: Int64[np.ndarray, " example"]
    y: Int64[np.ndarray, " example"]
    utterances: Int64[np.ndarray, " example"]
    context: int = 0

    def __len__(self) -> int:
        return len(self.y)

    @property
    def dim(self) -> int:
        """Values of one example."""
        return int(self.table.frames.shape[1]) * (1 + 2 * self.context)

    def x(self, chosen: Int64[np.ndarray, " chosen"] | None = None) -> Float32[Tensor, "chosen dim"]:
        """The vectors of some examples, or of all; the table itself, not a copy, where those are all its frames."""
        if chosen is None and not self.context and len(self.places) == len(self.table.frames):
            return self.table.frames
        places, owners = (each if chosen is None else each[chosen] for each in (self.places, self.utterances))
        if not self.context:
            return self.table.frames[torch.from_numpy(places)]
        first, last = self.table.offsets[owners], self.table.offsets[owners + 1] - 1
        beside = places[:, None] + np.arange(-self.context, self.context + 1)
        beside = np.clip(beside, first[:, None], last[:, None])
        return self.table.frames[torch.from_numpy(beside)].flatten(1)

    def take(self, chosen: Int64[np.ndarray, " chosen"] | Bool[np.ndarray, " example"]) -> "Examples":
        """Some of the examples of the same table."""
        kept = self.places[chosen], self.y[chosen], self.utterances[chosen]
        return replace(self, places=kept[0], y=kept[1], utterances=kept[2])

    def renumbered(self, classes: Int64[np.ndarray, " cls"]) -> "Examples":
        """Labels as places in `classes`; those of no class become len(classes), which no classifier predicts."""
        place = np.minimum(np.searchsorted(classes, self.y), len(classes) - 1)
        return replace(self, y=np.where(classes[place] == self.y, place, len(classes)).astype(np.int64))

    def draw(self, most: int, generator: np.random.Generator) -> "Examples":
        """At most so many, drawn without replacement, in their order."""
        if len(self) <= most:
            return self
        return self.take(np.sort(generator.choice(len(self), most, replace=False)))


def examples(setup: ProbeSetup, task: ProbeTask, features: Features, rows: Rows, table: FrameTable) -> Examples:
    """The labelled examples of some rows, from the table of their features."""
    if len(table) != len(rows):
        raise ValueError(f"table={len(table)} utterances: the split has {len(rows)}; extract the rows of the split")
    if task == "phone":
        y = _phones(setup, features, rows, table)
    else:
        table = _means(table) if task == "speaker_utterance" else table
        y = speaker_numbers(setup.corpus, rows)[table.owners]
    places = np.flatnonzero(y >= 0)
    return Examples(table, places, y[places], table.owners[places], setup.protocol.context)


def _means(table: FrameTable) -> FrameTable:
    """One frame for each utterance that has any: their mean."""
    kept = np.flatnonzero(table.counts)
    means = [table.utterance(i).mean(0) for i in kept.tolist()]
    offsets = np.concatenate([[0], np.cumsum(np.minimum(table.counts, 1))])
    return FrameTable(torch.stack(means) if means else table.frames, offsets)


def _phones(setup: ProbeSetup, features: Features, rows: Rows, table: FrameTable) -> Int64[np.ndarray, " frame"]:
    """The label that holds at the centre of each frame, −1 where none does."""
    alignment, y = setup.corpus.labels(setup.labels), np.full(len(table.frames), -1, np.int64)
    for i, row in enumerate(rows.tolist()):
        if (id := setup.corpus.ids[row]) in alignment:
            own = slice(table.offsets[i], table.offsets[i + 1])
            y[own] = alignment.frames(id, features.frame_centres(int(table.counts[i])))
    return y


def speaker_numbers(corpus: Corpus, rows: Rows) -> Int64[np.ndarray, " utterance"]:
    """Each row's speaker as a number that holds throughout the corpus; −1 where it is not known."""
    return np.where(has_speaker(corpus, rows), corpus.groups("speaker")[1][rows], -1).astype(np.int64)
