"""The classifier that a protocol asks for: chosen on a held-out part of the training split, trained, and its hits."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64

from cpc.config import InputError
from cpc.evaluation.classifier import LinearClassifier, fit
from cpc.evaluation.examples import Examples
from cpc.evaluation.mlp import HiddenLayerClassifier, fit_mlp
from cpc.evaluation.regularisation import choose_l2
from cpc.evaluation.result import Task
from cpc.evaluation.trial import Trial
from cpc.evaluation.validation import hold_out
from cpc.seeding import numpy_generator

_AT_ONCE = 1 << 26  # values of test examples put together at once: 256 MiB
_MOST_VALUES = 1 << 30  # values of all training examples of a linear classifier: 4 GiB; beyond it, some are drawn

Counts = Int64[np.ndarray, " _"]
Predictor = LinearClassifier | HiddenLayerClassifier


class Trained(NamedTuple):
    """A classifier, how it came to be, and in words what was chosen on the held-out part."""

    classifier: Predictor
    iterations: int
    converged: bool
    l2: float | None
    examples: int
    choice: str


def train_classifier(trial: Trial, task: Task, train: Examples, classes: int) -> Trained:
    """Train on labels 0 … classes − 1. What is held out is put back for the linear classifier's last fit."""
    inside, words = _held_out(trial, task, train)
    if trial.protocol.classifier == "linear":
        return _linear(trial, train, inside, words, classes)
    if not inside.any() or inside.all():
        raise InputError(f"{task} probe: a hidden layer is stopped by held-out utterances; give it at least two")
    protocol, kept = trial.protocol, train.take(~inside)
    found = fit_mlp(
        kept, train.take(inside), classes, hidden=protocol.hidden, seed=protocol.seed, device=trial.device
    )  # fmt: skip
    choice = f"stopped early on {words} (accuracy there {found.held_accuracy:.1%}), which it does not train on"
    return Trained(found, found.iterations, found.converged, None, len(kept), choice)


def _held_out(trial: Trial, task: Task, train: Examples) -> tuple[Bool[np.ndarray, " example"], str]:
    """Which examples are held out, from the utterances that have any, and what they are in words."""
    places = np.unique(train.utterances)
    rows = trial.rows(trial.train)
    held = hold_out(task, trial.corpus, rows[places], trial.rows(trial.test), trial.protocol.seed)
    out = np.zeros(len(rows), dtype=bool)
    out[places[held.out]] = True
    return out[train.utterances], held.words


def _linear(trial: Trial, train: Examples, inside: Bool[np.ndarray, " example"], words: str, classes: int) -> Trained:
    protocol, start = trial.protocol, None
    l2, choice = protocol.l2[len(protocol.l2) // 2], "L2 {:.2g}"
    if len(protocol.l2) > 1 and inside.any():
        chosen = choose_l2(
            train.take(~inside), train.take(inside), classes, protocol.l2, protocol.fitting, protocol.seed, trial.device
        )  # fmt: skip
        l2, start = chosen.for_all, chosen.start
        choice = f"L2 {{:.2g}}, chosen on {words} (log-likelihood there {chosen.tried[chosen.l2]:.3f} nats an example)"
    most = min(max(1, _MOST_VALUES // train.dim), protocol.fitting.max_frames or len(train))
    drawn = train.draw(most, numpy_generator(protocol.seed, "frames"))
    if len(drawn) < len(train):
        choice += f", trained on {len(drawn):,} of {len(train):,} examples"
    fitting = replace(protocol.fitting, l2=l2, max_frames=None)
    found = fit(drawn.x(), torch.from_numpy(drawn.y), classes, fitting, trial.device, start)
    return Trained(found, found.iterations, found.converged, l2, len(drawn), choice.format(l2))


def tally(classifier: Predictor, test: Examples, utterances: int) -> tuple[Counts, Counts]:
    """Hits and totals of each test utterance."""
    right = np.zeros(len(test), dtype=bool)
    size = max(1, _AT_ONCE // test.dim)
    for start in range(0, len(test), size):
        chosen = np.arange(start, min(start + size, len(test)))
        right[chosen] = classifier.predict(test.x(chosen)).numpy() == test.y[chosen]
    hits = np.bincount(test.utterances, right, minlength=utterances).astype(np.int64)
    return hits, np.bincount(test.utterances, minlength=utterances).astype(np.int64)
