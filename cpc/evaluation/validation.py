"""The part of the training split on which choices are made; the test set has no part in them.

What is held out is what the test holds out: whole speakers where phones are judged on other speakers, other chapters
where speakers are judged across chapters, other utterances elsewhere.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from cpc.corpus.corpus import Corpus
from cpc.corpus.splits import overlap
from cpc.evaluation.result import Task
from cpc.seeding import derive

SHARE = 0.2
ENOUGH = 5  # speakers, from which whole ones are held out

Rows = Int64[np.ndarray, " _"]


class Held(NamedTuple):
    """Which training utterances are held out (none where there is only one), and what they are in words."""

    out: Bool[np.ndarray, " utterance"]
    words: str


def hold_out(task: Task, corpus: Corpus, train: Rows, test: Rows, seed: int, share: float = SHARE) -> Held:
    """About `share` of the training utterances, as different from the rest as the test is."""
    speakers, chapters, ids = (_names(column, train) for column in (corpus.speakers, corpus.chapters, corpus.ids))
    if not task.startswith("speaker"):
        if len(set(speakers) - {""}) >= ENOUGH:
            return _held(speakers, share, seed, "training speakers")
        return _held(ids, share, seed, "training utterances")
    sessions = [f"{speaker}/{chapter}" for speaker, chapter in zip(speakers, chapters, strict=True)]
    apart = overlap(corpus, train, test).chapters == 0 and len(set(sessions)) > len(set(speakers))
    return _within(speakers, sessions if apart else ids, share, seed, "chapters" if apart else "utterances")


def _held(groups: Sequence[str], share: float, seed: int, words: str) -> Held:
    known = [name for name in groups if name]  # utterances without a speaker are trained on
    chosen = _chosen(known, share, seed)
    return Held(np.isin(groups, sorted(chosen)), f"{len(chosen)} of {len(set(known))} {words}")


def _within(speakers: Sequence[str], groups: Sequence[str], share: float, seed: int, words: str) -> Held:
    """The same within each speaker, who has to stay among the others."""
    own: dict[str, list[str]] = {}
    for speaker, group in zip(speakers, groups, strict=True):
        own.setdefault(speaker, []).append(group)
    chosen = set[str]().union(*(_chosen(names, share, seed) for names in own.values()))
    return Held(np.isin(groups, sorted(chosen)), f"{len(chosen)} of {len(set(groups))} training {words}")


def _chosen(groups: Sequence[str], share: float, seed: int) -> set[str]:
    """The first of the groups in the order of a hash: at least one on either side; none of a single group."""
    names = sorted(set(groups), key=lambda name: derive(seed, "validation", name))
    count = min(max(round(share * len(names)), 1), len(names) - 1)
    return set(names[:count])


def _names(column: Sequence[str], rows: Rows) -> list[str]:
    return [column[row] for row in rows.tolist()]
