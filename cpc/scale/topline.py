"""The supervised topline: the same encoder and context network, trained end to end with the labels.

Frames of c go through one linear layer, as in the probe, but nothing is frozen ("Supervised" in Tables 1 and 2 of van
den Oord et al. 2018). It says what the architecture can reach when it is told what to listen for. The trainer is that
of every recipe, its loss `classification`. The learning rate falls to zero over as many windows as a run of the recipe
hears, so that neither has the longer training; the weights that do best on the utterances that the probes hold out too
are kept, and the test split is read once, at the end.
"""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from torch import Tensor, nn

from cpc.config import InputError, dump
from cpc.evaluation.features import Layer, extract
from cpc.evaluation.probes.dataset import examples, hold_out, labelled, speaker_numbers
from cpc.evaluation.probes.linear import LinearClassifier
from cpc.evaluation.probes.probe import count_correct
from cpc.evaluation.probes.protocol import (
    REPLICATES,
    ProbeSetup,
    Rows,
    check,
    find,
    identified,
    make_result,
    place,
    unit,
)
from cpc.evaluation.results import SHORT, ProbeResult, ProbeTask, key
from cpc.losses.supervised import ClassificationConfig, ClassificationLoss
from cpc.models.cpc import ModelConfig
from cpc.training.optim import OptimConfig
from cpc.training.recipe import DataConfig, Recipe, TrainingConfig
from cpc.training.trainer import Trainer

NAME = "supervised"
RISING = 0.01


@dataclass(frozen=True)
class Topline:
    """How the topline is trained.

    max_steps: of `batch_size` windows of `window_size` samples each. lr: of Adam, after `warmup_steps`; from there a
    cosine to zero. validate_every: steps between two validations on `validate_batches` batches of the held-out part.
    """

    max_steps: int = 8000
    batch_size: int = 8
    window_size: int = 20480
    lr: float = 1e-3
    warmup_steps: int = 100
    validate_every: int = 250
    validate_batches: int = 32

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise InputError(f"topline.{name}={value}: must be above 0")

    def recipe(self, setup: ProbeSetup, task: ProbeTask, model: ModelConfig) -> Recipe:
        """The recipe by which the trainer trains it on the corpus of a setup."""
        return Recipe(
            data=DataConfig(corpus=str(setup.corpus.path), window_size=self.window_size, batch_size=self.batch_size),
            seed=setup.protocol.seed,
            model=replace(model, init=None),
            loss=ClassificationConfig(labels=setup.labels if task == "phone" else "speaker"),
            optim=OptimConfig(lr=self.lr, warmup_steps=self.warmup_steps, schedule="cosine"),
            training=TrainingConfig(
                max_steps=self.max_steps,
                device=setup.device,
                validate_every=self.validate_every,
                validate_batches=self.validate_batches,
            ),
        )


def topline(
    setup: ProbeSetup,
    task: ProbeTask,
    config: ModelConfig,
    how: Topline | None = None,
    cache: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> ProbeResult:
    """Train on the training split, evaluate on the test split.

    Args:
        setup: corpus, splits, labels, and the protocol, whose seed and budget count.
        task: `phone` or `speaker_frame`.
        config: of the model that is trained.
        how: steps, learning rate and validation.
        cache: folder where the result is found if the same was computed before.
        say: takes a line at every validation.

    Returns:
        The result, as of a probe.

    Raises:
        InputError: another task, or no utterance as long as a window.
    """
    how = how or Topline()
    if task not in ("phone", "speaker_frame") or setup.protocol.context or setup.folds:
        rule = "the topline labels single frames, without folds or frames beside them; give phone or speaker_frame"
        raise InputError(f"task={task}: {rule}")
    notes = check(setup, task)
    subject = {NAME: dump(config), "loss": "classification", **asdict(how)}
    path, short = place(cache, subject, setup, task) if cache else None, key(subject)[:SHORT]
    if path and (found := find(path, setup)):
        return identified(found, setup, short)
    rows = setup.rows(setup.train)
    rows = rows[labelled(task, setup.corpus, rows, setup.protocol.budget, setup.protocol.seed)]
    classes = _classes(setup, task, rows)
    trainer, held_out = _start(setup, task, config, how, rows)
    best = _train(trainer, say or (lambda line: None))
    result = _evaluate(setup, task, trainer, classes, best, held_out, notes)
    if path:
        result.write(path)
    return identified(result, setup, short)


def _classes(setup: ProbeSetup, task: ProbeTask, rows: Rows) -> Int64[np.ndarray, " cls"]:
    """The numbers of the labels that the training utterances have."""
    if task == "phone":
        alignment, ids = setup.corpus.labels(setup.labels), [setup.corpus.ids[row] for row in rows.tolist()]
        found = [alignment.intervals(id).labels for id in ids if id in alignment]
        classes = np.unique(np.concatenate(found).astype(np.int64)) if found else np.zeros(0, np.int64)
    else:
        speakers = speaker_numbers(setup.corpus, rows)
        classes = np.unique(speakers[speakers >= 0])
    if len(classes) < 2:
        raise InputError(f"{task} topline: {len(classes)} classes to train on: it needs at least two")
    return classes


def _start(setup: ProbeSetup, task: ProbeTask, config: ModelConfig, how: Topline, rows: Rows) -> tuple[Trainer, str]:
    """The trainer on the labelled rows, and in words what it is validated on."""
    held = hold_out(task, setup.corpus, rows, setup.rows(setup.test), setup.protocol.seed)
    if not held.out.any():
        raise InputError(f"{task} topline: {len(rows)} labelled utterance; it is stopped by others, give more")
    recipe = how.recipe(setup, task, config)
    return Trainer.start(recipe, splits=(rows[~held.out], rows[held.out])), held.words


@dataclass
class _Best:
    """The held-out accuracy at every validation, and the weights of the best one."""

    accuracies: list[float]
    weights: dict[str, Tensor]

    def add(self, accuracy: float, network: nn.Module) -> None:
        if not self.accuracies or accuracy > max(self.accuracies):
            self.weights = copy.deepcopy(network.state_dict())
        self.accuracies.append(accuracy)

    @property
    def converged(self) -> bool:
        """Whether the last quarter was, in the mean, less than RISING above the quarter before it."""
        quarter = len(self.accuracies) // 4
        if quarter < 2:
            return False
        before, last = self.accuracies[-2 * quarter : -quarter], self.accuracies[-quarter:]
        return (sum(last) - sum(before)) / quarter < RISING


def _train(trainer: Trainer, say: Callable[[str], None]) -> _Best:
    """Train to the last step; the trainer ends with the weights that did best on what was held out."""
    settings, best = trainer.recipe.training, _Best([], {})
    trainer.hold()
    trainer.train(True)
    for step, waveform in trainer.windows.batches(0, settings.max_steps, trainer.device):
        trainer.update(step, waveform)
        if trainer.step % settings.validate_every == 0 or trainer.step == settings.max_steps:
            best.add(trainer.validate()["valid/accuracy"], trainer.network)
            say(f"{NAME}: step {trainer.step}, held-out accuracy {best.accuracies[-1]:.1%}")
    trainer.network.load_state_dict(best.weights)
    trainer.train(False)
    return best


def _evaluate(
    setup: ProbeSetup,
    task: ProbeTask,
    trainer: Trainer,
    classes: Int64[np.ndarray, " cls"],
    best: _Best,
    held_out: str,
    notes: tuple[str, ...],
) -> ProbeResult:
    model, head, tested = trainer.model, trainer.criterion, setup.rows(setup.test)
    if not isinstance(head, ClassificationLoss):
        raise TypeError(f"criterion={type(head).__name__}: must be ClassificationLoss")
    steps = trainer.recipe.training.max_steps
    table = extract(model, setup.corpus, tested, ["c"], progress=setup.progress, name=NAME)["c"]
    evaluated = examples(setup, task, Layer(model, "c", NAME), tested, table)
    weight, bias = head.head.weight.detach()[classes].T.contiguous(), head.head.bias.detach()[classes]
    linear = LinearClassifier(weight, bias, 0.0, steps, best.converged)
    num_correct, totals = count_correct(linear, evaluated.renumbered(classes), len(tested))
    if not best.converged:
        notes += (f"Training ended after {steps} steps, before the held-out accuracy stopped rising.",)
    chosen = (
        f"the weights that were best on {held_out} kept (accuracy there {max(best.accuracies):.1%}), not trained on"
    )
    return make_result(
        setup, num_correct, totals,
        task=task, features=NAME, classifier="end_to_end", classes=len(classes),
        majority=float(np.bincount(evaluated.y).max() / len(evaluated)) if len(evaluated) else 0.0,
        train_utterances=len(trainer.windows.rows), train_examples=int(trainer.windows.lengths.sum()) // model.hop,
        iterations=steps, converged=best.converged, notes=notes,
        protocol=f"encoder, context network and linear softmax layer trained end to end by Adam, its rate falling to "
        f"zero, on {unit(task, setup.labels)}; {chosen}; seed {setup.protocol.seed}; {REPLICATES} bootstrap replicates",
    )  # fmt: skip
