"""Probes: how much of the phones and the speakers a simple classifier can read from frozen features.

Published "speaker accuracies" come from three different probes; here each has its name: `speaker_frame`, every frame
on its own (van den Oord et al. 2018, section 3.1); `speaker_last`, the last frame of windows of 1.28 s (CPC_audio);
`speaker_utterance`, the mean over the utterance (Greedy InfoMax). Their numbers are never compared.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cpc.config import InputError
from cpc.corpus.corpus import Corpus
from cpc.evaluation import leakage
from cpc.evaluation.budget import labelled
from cpc.evaluation.cache import identified
from cpc.evaluation.examples import Examples, examples
from cpc.evaluation.features import Features, FrameTable, extract_features
from cpc.evaluation.fitted import Trained, tally, train_classifier
from cpc.evaluation.phone_sequence import judge_sequences
from cpc.evaluation.protocol import WINDOW, Protocol
from cpc.evaluation.result import ProbeResult, Task
from cpc.evaluation.session import subject_of
from cpc.evaluation.trial import Split, Trial, check, conclude


def probe(
    features: Features,
    corpus: Corpus,
    train: Split,
    test: Split,
    task: Task,
    *,
    labels: str = "phones",
    pretrain_ids: Sequence[str] | None = None,
    protocol: Protocol | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> ProbeResult:
    """Train a classifier on the training split and judge it on the test split.

    `train` and `test` are split names, files of ids, or ids. Raises InputError if they share utterances, if a
    speaker probe is asked for speakers that it was not trained on, or if labels are missing.
    """
    trial = Trial(corpus, train, test, labels, protocol or Protocol(), device, progress)
    check(trial, task)
    window = WINDOW if task == "speaker_last" else None
    tables = [
        extract_features(features, corpus, trial.rows(split), last_of=window, device=device, progress=progress)
        for split in (train, test)
    ]
    result = judge(trial, task, features, tables[0], tables[1], pretrain_ids)
    return identified(result, trial, subject_of(features))


def judge(
    trial: Trial,
    task: Task,
    features: Features,
    train: FrameTable,
    test: FrameTable,
    pretrain_ids: Sequence[str] | None = None,
) -> ProbeResult:
    """The same from features that are already computed for the rows of the trial's splits: all frames of each
    utterance, or for `speaker_last` the last one of each of its windows.
    """
    heard = leakage.pretraining_note(trial.corpus, trial.rows(trial.test), pretrain_ids)
    notes = check(trial, task) + heard
    result = measure(trial, task, features, train, test)
    return replace(result, notes=notes + result.notes)


def measure(trial: Trial, task: Task, features: Features, train: FrameTable, test: FrameTable) -> ProbeResult:
    """The same for splits that were checked before; its notes are on labels and training alone."""
    if task == "phone_sequence":
        return judge_sequences(trial, features, train, test)
    rows, tested = trial.rows(trial.train), trial.rows(trial.test)
    learnt = examples(trial, task, features, rows, train)
    judged = examples(trial, task, features, tested, test)
    notes = _empty_note("training", len(rows), learnt) + _empty_note("test", len(tested), judged)
    kept = labelled(task, trial.corpus, rows, trial.protocol.budget, trial.protocol.seed)
    learnt = learnt if kept.all() else learnt.take(kept[learnt.utterances])
    return _judge(trial, task, features.name, learnt, judged, notes)


def _judge(
    trial: Trial, task: Task, name: str, learnt: Examples, judged: Examples, notes: tuple[str, ...]
) -> ProbeResult:
    classes = np.unique(learnt.y)
    if len(classes) < 2 or not len(judged):
        rule = "needs at least two classes to train on and one example to test on; check splits and labels"
        raise InputError(f"{task} probe: {len(classes)} classes, {len(judged)} test examples: {rule}")
    train, test = learnt.renumbered(classes), judged.renumbered(classes)
    trained = train_classifier(trial, task, train, len(classes))
    hits, totals = tally(trained.classifier, test, len(trial.rows(trial.test)))
    return conclude(
        trial, hits, totals,
        task=task, features=trial.protocol.name(name), classes=len(classes), classifier=trial.protocol.classifier,
        majority=float(np.bincount(judged.y).max() / len(judged)), l2=trained.l2,
        train_utterances=len(np.unique(train.utterances)), train_examples=trained.examples,
        iterations=trained.iterations, converged=trained.converged,
        protocol=trial.protocol.sentence(task, trial.labels, trained.choice),
        notes=notes + _training_notes(trained, test, len(classes)),
    )  # fmt: skip


def _training_notes(trained: Trained, test: Examples, classes: int) -> tuple[str, ...]:
    notes: tuple[str, ...] = ()
    if not trained.converged:
        notes += (f"The classifier did not converge in {trained.iterations} iterations.",)
    if unknown := np.count_nonzero(test.y == classes):
        notes += (f"{unknown} of {len(test)} test examples are of classes without a training example: errors.",)
    return notes


def _empty_note(name: str, utterances: int, given: Examples) -> tuple[str, ...]:
    missing = utterances - len(np.unique(given.utterances))
    return (f"{missing} of {utterances} {name} utterances have no labelled frame.",) if missing else ()
