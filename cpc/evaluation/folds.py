"""Leave-speakers-out cross-validation: every speaker of both splits is judged by a classifier that never heard them.

With four test speakers an interval over speakers means little; with folds all speakers of the corpus's splits are test
speakers, and it says how far another speaker may be from the average.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int64

from cpc.evaluation.features import Features, FrameTable
from cpc.evaluation.probe import measure
from cpc.evaluation.result import ProbeResult, Task
from cpc.evaluation.trial import Trial, check, conclude
from cpc.seeding import derive


def judge_folds(trial: Trial, task: Task, features: Features, table: FrameTable) -> ProbeResult:
    """Judge every fold of `trial.folds` and pool the hits; `table` holds the features of the rows `trial.tested`."""
    notes, rows = check(trial, task), trial.tested
    fold = folds_of([trial.corpus.speakers[row] for row in rows.tolist()], trial.folds, trial.protocol.seed)
    results = []
    for number in range(trial.folds):
        inside, outside = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        ids = [[trial.corpus.ids[row] for row in rows[part].tolist()] for part in (outside, inside)]
        part = replace(trial, train=ids[0], test=ids[1], folds=0)
        results.append(measure(part, task, features, table.take(outside), table.take(inside)))
    return _pool(trial, results, notes)


def folds_of(speakers: Sequence[str], count: int, seed: int) -> Int64[np.ndarray, " utterance"]:
    """The fold of each utterance: speakers are dealt out like cards, in the order of a hash of the seed and name."""
    order = sorted(set(speakers) - {""}, key=lambda name: derive(seed, "folds", name))
    fold = {name: place % count for place, name in enumerate(order)} | {"": -1}  # who is not known is in no fold
    return np.array([fold[name] for name in speakers], dtype=np.int64)


def _pool(trial: Trial, results: Sequence[ProbeResult], notes: tuple[str, ...]) -> ProbeResult:
    counts = {count.id: count for result in results for count in result.utterances}
    ids = [trial.corpus.ids[row] for row in trial.tested.tolist()]
    none = (0, 0, 0, 0)  # of who is in no fold
    hits, totals = (np.array([counts.get(id, none)[place] for id in ids], dtype=np.int64) for place in (2, 3))
    first, strengths = results[0], sorted({result.l2 for result in results if result.l2 is not None})
    said = f"{trial.folds} folds over speakers, all choices made anew in each"
    weights = [result.test_examples for result in results]
    return conclude(
        trial, hits, totals,
        task=first.task, features=first.features, classifier=first.classifier, classes=max(r.classes for r in results),
        majority=float(np.average([r.majority for r in results], weights=weights)),
        l2=strengths[0] if len(strengths) == 1 else None,
        train_utterances=min(r.train_utterances for r in results),
        train_examples=min(r.train_examples for r in results),
        iterations=sum(r.iterations for r in results), converged=all(r.converged for r in results),
        protocol=f"{said}; in the first: {first.protocol}",
        notes=notes + tuple(dict.fromkeys(note for r in results for note in r.notes)),
    )  # fmt: skip
