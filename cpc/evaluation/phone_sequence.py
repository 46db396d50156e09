"""Phone error rate: a linear layer and CTC on frozen features, greedy decoding.

No frame has a label here, only the utterance: its phones in order, without silences. The features must say which
phones there are and where one ends, which a frame-wise accuracy does not ask. Rivière et al. 2020 judge other languages
so, and SUPERB's phone recognition is such a probe with a frame at a time, each with splits and an optimiser of its own.
"""

import numpy as np
from jaxtyping import Int64

from cpc.config import InputError
from cpc.evaluation.budget import labelled
from cpc.evaluation.ctc import Sequences, edits, fit_ctc
from cpc.evaluation.features import Features, FrameTable
from cpc.evaluation.phones import silent_classes
from cpc.evaluation.result import ProbeResult
from cpc.evaluation.trial import Rows, Trial, conclude
from cpc.evaluation.validation import hold_out


def judge_sequences(trial: Trial, features: Features, train: FrameTable, test: FrameTable) -> ProbeResult:
    """Train on the labelled utterances of the training split, decode the test split, count the edits.

    Hits are phones less edits (insertions, deletions, substitutions), so that accuracy is 1 − phone error rate.
    """
    rows, tested = trial.rows(trial.train), trial.rows(trial.test)
    learnt, judged = (sequences(trial, r, t) for r, t in ((rows, train), (tested, test)))
    kept = labelled("phone_sequence", trial.corpus, rows, trial.protocol.budget, trial.protocol.seed)
    learnt = learnt.take([i for i, place in enumerate(learnt.places) if kept[place]])
    held = hold_out("phone_sequence", trial.corpus, rows[learnt.places], tested, trial.protocol.seed)
    if not learnt.places or not judged.places or not held.out.any():
        counts = f"{len(learnt.places)} training and {len(judged.places)} test utterances have phones"
        raise InputError(f"phone_sequence probe: {counts}; it needs at least two to train on and one to test on")
    parts = [learnt.take(np.flatnonzero(mask).tolist()) for mask in (~held.out, held.out)]
    inventory = trial.corpus.labels(trial.labels).inventory
    hop = features.hop / features.sample_rate
    model = fit_ctc(parts[0], parts[1], len(inventory), hop, trial.protocol.seed, trial.device)
    hits, totals = np.zeros(len(tested), np.int64), np.zeros(len(tested), np.int64)
    for place, phones in zip(judged.places, judged.phones, strict=True):
        totals[place] = len(phones)
        hits[place] = len(phones) - edits(phones, model.decode(judged.table.utterance(place)))
    missing = len(tested) - len(judged.places)
    return conclude(
        trial, hits, totals,
        task="phone_sequence", features=features.name, majority=0.0,
        classes=len(np.unique(np.concatenate(parts[0].phones))),
        train_utterances=len(parts[0].places), train_examples=sum(map(len, parts[0].phones)),
        iterations=model.iterations, converged=model.converged,
        protocol=trial.protocol.sentence("phone_sequence", trial.labels, f"stopped early on {held.words}"),
        notes=(f"{missing} of {len(tested)} test utterances have no phones.",) if missing else (),
    )  # fmt: skip


def sequences(trial: Trial, rows: Rows, table: FrameTable) -> Sequences:
    """The phones of each utterance in order, without silences; utterances without phones or frames are left out."""
    alignment = trial.corpus.labels(trial.labels)
    silent = np.array(silent_classes(alignment.inventory, alignment.silences), dtype=np.int64)
    places: list[int] = []
    phones: list[Int64[np.ndarray, " phone"]] = []
    for place, row in enumerate(rows.tolist()):
        id = trial.corpus.ids[row]
        labels = alignment.intervals(id).labels.astype(np.int64) if id in alignment else silent
        spoken = labels[~np.isin(labels, silent)] + 1
        if len(spoken) and table.counts[place]:
            places.append(place)
            phones.append(spoken)
    return Sequences(table, places, phones)
