"""Linear probes: how much of the phones and the speakers a linear classifier can read from frozen features.

Protocol (van den Oord et al. 2018, section 3.1): multinomial logistic regression on single frames. Published
"speaker accuracies" come from three different probes; here each has its name, `speaker_frame` for every frame on
its own (the paper's) and `speaker_utterance` for the mean over the utterance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from cpc.config import InputError
from cpc.corpus.corpus import Corpus
from cpc.evaluation import leakage
from cpc.evaluation.classifier import Fitting, fit
from cpc.evaluation.features import Features, FrameTable, extract_features
from cpc.evaluation.interval import bootstrap_interval
from cpc.evaluation.result import TASKS, ProbeResult, Task

REPLICATES = 2000  # of the bootstrap
Rows = Int64[np.ndarray, " utterance"]
Split = str | Sequence[str]


@dataclass(frozen=True)
class Trial:
    """All that a probe needs besides the features: the data, the labels, and how to fit."""

    corpus: Corpus
    train: Split
    test: Split
    labels: str = "phones"
    fitting: Fitting = field(default_factory=Fitting)
    device: str = "cpu"
    progress: bool = False

    def rows(self, split: Split) -> Rows:
        """Rows in the order of the corpus, each once: a split is a set."""
        return np.unique(self.corpus.rows(split))

    @property
    def split_names(self) -> dict[str, str]:
        """How a result names its splits."""
        splits = {"train": self.train, "test": self.test}
        return {side: s if isinstance(s, str) else f"{len(s)} ids" for side, s in splits.items()}


@dataclass(frozen=True)
class _Examples:
    """Vectors with their classes, and the utterance (place in the table) of each."""

    x: Float32[Tensor, "example dim"]
    y: Int64[np.ndarray, " example"]
    utterance: Int64[np.ndarray, " example"]


def probe(
    features: Features,
    corpus: Corpus,
    train: Split,
    test: Split,
    task: Task,
    *,
    labels: str = "phones",
    pretrain_ids: Sequence[str] | None = None,
    fitting: Fitting | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> ProbeResult:
    """Fit a linear classifier on the training split and judge it on the test split.

    `train` and `test` are split names, files of ids, or ids. Raises InputError if they share utterances, if a
    speaker probe is asked for speakers that it was not trained on, or if labels are missing.
    """
    trial = Trial(corpus, train, test, labels, fitting or Fitting(), device, progress)
    check(trial, task)
    tables = [
        extract_features(features, corpus, trial.rows(split), device=device, progress=progress)
        for split in (train, test)
    ]
    return judge(trial, task, features, tables[0], tables[1], pretrain_ids)


def check(trial: Trial, task: Task) -> tuple[str, ...]:
    """What the splits share, as sentences. Raises InputError before anything is computed for an unfit trial."""
    if task not in TASKS:
        raise InputError(f"task={task}: must be one of {', '.join(TASKS)}")
    return leakage.check(task, trial.corpus, trial.rows(trial.train), trial.rows(trial.test))


def judge(
    trial: Trial,
    task: Task,
    features: Features,
    train: FrameTable,
    test: FrameTable,
    pretrain_ids: Sequence[str] | None = None,
) -> ProbeResult:
    """The same from features that are already computed, for the rows of the trial's splits."""
    rows = trial.rows(trial.train), trial.rows(trial.test)
    notes = check(trial, task) + leakage.pretraining_note(trial.corpus, rows[1], pretrain_ids)
    examples = [_examples(trial, task, features, r, t) for r, t in zip(rows, (train, test), strict=True)]
    for name, n, given in zip(("training", "test"), map(len, rows), examples, strict=True):
        notes += _empty_note(name, n, given)
    return _score(trial, task, features.name, examples[0], examples[1], notes)


def _examples(trial: Trial, task: Task, features: Features, rows: Rows, table: FrameTable) -> _Examples:
    if len(table) != len(rows):
        raise ValueError(f"table={len(table)} utterances: the split has {len(rows)}; extract the rows of the split")
    owner = np.repeat(np.arange(len(rows)), table.counts)
    if task == "phone":
        return _labelled(table, _phones(trial, features, rows, table), owner)
    speakers = _speakers(trial.corpus, rows)
    if task == "speaker_frame":
        return _Examples(table.frames, speakers[owner], owner)
    kept = np.flatnonzero(table.counts)
    means = [table.utterance(i).mean(0) for i in kept.tolist()]
    return _Examples(torch.stack(means) if means else table.frames, speakers[kept], kept)


def _phones(trial: Trial, features: Features, rows: Rows, table: FrameTable) -> Int64[np.ndarray, " frame"]:
    """The label that holds at the centre of each frame, −1 where none does."""
    alignment, y = trial.corpus.labels(trial.labels), np.full(len(table.frames), -1, np.int64)
    for i, row in enumerate(rows.tolist()):
        if (id := trial.corpus.ids[row]) in alignment:
            own = slice(table.offsets[i], table.offsets[i + 1])
            y[own] = alignment.frames(id, features.frame_centres(int(table.counts[i])))
    return y


def _labelled(table: FrameTable, y: Int64[np.ndarray, " frame"], owner: Int64[np.ndarray, " frame"]) -> _Examples:
    kept = y >= 0
    x = table.frames if kept.all() else table.frames[torch.from_numpy(kept)]
    return _Examples(x, y[kept], owner[kept])


def _speakers(corpus: Corpus, rows: Rows) -> Int64[np.ndarray, " utterance"]:
    place = {name: i for i, name in enumerate(sorted(set(corpus.speakers)))}
    return np.array([place[corpus.speakers[row]] for row in rows.tolist()], dtype=np.int64)


def _empty_note(name: str, utterances: int, examples: _Examples) -> tuple[str, ...]:
    missing = utterances - len(np.unique(examples.utterance))
    return (f"{missing} of {utterances} {name} utterances have no labelled frame.",) if missing else ()


def _score(
    trial: Trial, task: Task, name: str, train: _Examples, test: _Examples, notes: tuple[str, ...]
) -> ProbeResult:
    classes = np.unique(train.y)
    if len(classes) < 2 or not len(test.y):
        rule = "needs at least two classes to train on and one example to test on; check splits and labels"
        raise InputError(f"{task} probe: {len(classes)} classes, {len(test.y)} test examples: {rule}")
    y = torch.from_numpy(np.searchsorted(classes, train.y))
    classifier = fit(train.x, y, len(classes), trial.fitting, trial.device)
    correct = classes[classifier.predict(test.x).numpy()] == test.y
    hits, totals = np.bincount(test.utterance, correct).astype(np.int64), np.bincount(test.utterance)
    low, high = bootstrap_interval(hits, totals, replicates=REPLICATES, seed=trial.fitting.seed)
    if not classifier.converged:
        notes += (f"The classifier did not converge in {classifier.iterations} iterations.",)
    return ProbeResult(
        task=task,
        features=name,
        accuracy=float(correct.mean()),
        low=low,
        high=high,
        majority=float(np.bincount(test.y).max() / len(test.y)),
        classes=len(classes),
        **trial.split_names,
        train_utterances=len(np.unique(train.utterance)),
        test_utterances=int(np.count_nonzero(totals)),
        train_examples=min(len(train.y), trial.fitting.max_frames or len(train.y)),
        test_examples=len(test.y),
        iterations=classifier.iterations,
        converged=classifier.converged,
        corpus=trial.corpus.name,
        protocol=_protocol(trial, task),
        notes=notes,
    )


def _protocol(trial: Trial, task: Task) -> str:
    unit = {
        "phone": f"single frames, labelled by `{trial.labels}` at their centres in time",
        "speaker_frame": "every frame on its own",
        "speaker_utterance": "the mean over each utterance",
    }[task]
    some = f", on {trial.fitting.max_frames} frames at most" if trial.fitting.max_frames else ""
    return (
        f"linear softmax classifier on {unit}; standardised by training statistics; L2 {trial.fitting.l2:g}, L-BFGS"
        f" to a relative change of {trial.fitting.tolerance:g}{some}; {REPLICATES} bootstrap replicates over utterances"
    )
