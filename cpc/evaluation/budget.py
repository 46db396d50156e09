"""Few labels: a share of the training utterances, drawn so that a larger share holds every smaller one."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64

from cpc.corpus.corpus import Corpus
from cpc.evaluation.result import Task
from cpc.seeding import derive

BUDGETS = (1.0, 10.0, 100.0)  # percent

Rows = Int64[np.ndarray, " _"]


def labelled(task: Task, corpus: Corpus, rows: Rows, percent: float, seed: int) -> Bool[np.ndarray, " utterance"]:
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
