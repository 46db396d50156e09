"""The supervised topline: the same encoder and context network, trained end to end with the labels.

Frames of c go through one linear layer, as in the probe, but nothing is frozen ("Supervised" in Tables 1 and 2 of van
den Oord et al. 2018). It says what the architecture can reach when it is told what to listen for. The learning rate
falls to zero over as many windows as a run of the recipe hears, so that neither has the longer training; the weights
of the best look at what the probes hold out too are kept, and the test split is read once, at the end.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from cpc.config import InputError, dump
from cpc.data.sampler import WindowConfig, WindowSampler
from cpc.device import precision
from cpc.evaluation.features import Layer, extract
from cpc.evaluation.probes.dataset import examples, hold_out, labelled, speaker_numbers
from cpc.evaluation.probes.linear import LinearClassifier
from cpc.evaluation.probes.probe import tally
from cpc.evaluation.probes.protocol import REPLICATES, Rows, Trial, check, conclude, find, identified, place, unit
from cpc.evaluation.results import SHORT, ProbeResult, Task, key
from cpc.losses.supervised import FrameLabels
from cpc.models.cpc import CPC, ModelConfig, build
from cpc.seeding import derive

NAME = "supervised"
RISING = 0.01
Say = Callable[[str], None]


@dataclass(frozen=True)
class Topline:
    """How the topline is trained.

    steps: of `batch` windows of `samples` each. lr: of Adam, after `warmup` steps; from there a cosine to zero.
    look: steps between two looks at `looked_at` batches of the held-out part.
    """

    steps: int = 8000
    batch: int = 8
    samples: int = 20480
    lr: float = 1e-3
    warmup: int = 100
    look: int = 250
    looked_at: int = 32

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise InputError(f"topline.{name}={value}: must be above 0")

    def lr_at(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        done = max(0, step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * min(1.0, (step + 1) / self.warmup) * (1 + math.cos(math.pi * done)) / 2


class _Course(NamedTuple):
    """A model with its head, and the windows that it learns from and is stopped by."""

    model: CPC
    head: nn.Linear
    train: WindowSampler
    held: WindowSampler
    words: str


@dataclass
class _Looks:
    """The held-out accuracy at every look, and the weights of the best one."""

    accuracies: list[float]
    best: dict[str, Tensor]

    def take(self, accuracy: float, network: nn.Module) -> None:
        if not self.accuracies or accuracy > max(self.accuracies):
            self.best = copy.deepcopy(network.state_dict())
        self.accuracies.append(accuracy)

    @property
    def settled(self) -> bool:
        """Whether the last quarter was, in the mean, less than RISING above the quarter before it."""
        quarter = len(self.accuracies) // 4
        if quarter < 2:
            return False
        before, last = self.accuracies[-2 * quarter : -quarter], self.accuracies[-quarter:]
        return (sum(last) - sum(before)) / quarter < RISING


def topline(
    trial: Trial,
    task: Task,
    config: ModelConfig,
    how: Topline | None = None,
    cache: Path | None = None,
    say: Say | None = None,
) -> ProbeResult:
    """Train on the training split, evaluate on the test split; `phone` or `speaker_frame`, seeded by the protocol.

    With `cache`, the result is found there where the same was computed before. Raises InputError for other tasks,
    and where no utterance is as long as a window.
    """
    how = how or Topline()
    if task not in ("phone", "speaker_frame") or trial.protocol.context or trial.folds:
        rule = "the topline labels single frames, without folds or frames beside them; give phone or speaker_frame"
        raise InputError(f"task={task}: {rule}")
    notes = check(trial, task)
    own = {NAME: dump(config), "rate": "cosine", **asdict(how)}
    path, subject = place(cache, own, trial, task) if cache else None, key(own)[:SHORT]
    if path and (found := find(path, trial)):
        return identified(found, trial, subject)
    targets, course = _prepare(trial, task, config, how)
    looks = _train(course, targets, how, trial.device, say or (lambda line: None))
    result = _evaluate(trial, task, course, targets.classes, looks, how.steps, notes)
    if path:
        result.write(path)
    return identified(result, trial, subject)


class _Targets:
    """The class of every frame of a window, numbered among those that the training split has; −1 for no label."""

    def __init__(self, trial: Trial, task: Task, rows: Rows) -> None:
        self.task, corpus = task, trial.corpus
        if task == "phone":
            self.phones = FrameLabels(corpus, trial.labels)
            alignment, ids = self.phones.alignment, [corpus.ids[row] for row in rows.tolist()]
            found = [alignment.intervals(id).labels for id in ids if id in alignment]
            self.classes = np.unique(np.concatenate(found).astype(np.int64)) if found else np.zeros(0, np.int64)
        else:
            self.speakers = speaker_numbers(corpus, np.arange(len(corpus)))
            self.classes = np.unique(self.speakers[rows][self.speakers[rows] >= 0])
        if len(self.classes) < 2:
            raise InputError(f"{task} topline: {len(self.classes)} classes to train on: it needs at least two")

    def of(self, windows: WindowSampler, step: int, model: CPC) -> Int64[Tensor, "batch frame"]:
        """Those of the batch of a step."""
        if self.task == "speaker_frame":
            rows, _ = windows.draw(step)
            labels = np.repeat(self.speakers[rows][:, None], model.frames(windows.config.window_size), axis=1)
        else:
            labels = self.phones.of(windows, step, model)
        known = np.minimum(np.searchsorted(self.classes, labels), len(self.classes) - 1)
        return torch.from_numpy(np.where(self.classes[known] == labels, known, -1).astype(np.int64))


def _prepare(trial: Trial, task: Task, config: ModelConfig, how: Topline) -> tuple[_Targets, _Course]:
    seed, corpus, rows = trial.protocol.seed, trial.corpus, trial.rows(trial.train)
    if corpus.sample_rate != config.sample_rate:
        rule = f"has {corpus.sample_rate} Hz where the model needs {config.sample_rate}; pack it at that rate"
        raise InputError(f"corpus={corpus.path}: {rule}")
    rows = rows[labelled(task, corpus, rows, trial.protocol.budget, seed)]
    held, targets = hold_out(task, corpus, rows, trial.rows(trial.test), seed), _Targets(trial, task, rows)
    if not held.out.any():
        raise InputError(f"{task} topline: {len(rows)} labelled utterance; it is stopped by others, give more")
    windows = WindowConfig(window_size=how.samples, batch_size=how.batch)
    train = WindowSampler(corpus, rows[~held.out], windows, derive(seed, NAME, "train"))
    stop_by = WindowSampler(corpus, rows[held.out], windows, derive(seed, NAME, "held"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, NAME))
        head = nn.Linear(config.context.hidden, len(targets.classes))
    model = build(config, seed).to(trial.device)
    return targets, _Course(model, head.to(trial.device), train, stop_by, held.words)


def _train(course: _Course, targets: _Targets, how: Topline, device: str, say: Say) -> _Looks:
    network = nn.ModuleList([course.model, course.head])
    optimiser = torch.optim.Adam(network.parameters(), how.lr)
    looks, done = _Looks([], {}), 0
    while done < how.steps:
        network.train()
        for step, waveform in course.train.batches(done, min(done + how.look, how.steps), torch.device(device)):
            optimiser.param_groups[0]["lr"] = how.lr_at(step)
            logits = _logits(course, waveform)
            labels = targets.of(course.train, step, course.model).to(logits.device)
            if not (labels >= 0).any():
                continue
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-1)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        done = min(done + how.look, how.steps)
        looks.take(_held_accuracy(course, targets, how, device), network)
        say(f"{NAME}: step {done}, held-out accuracy {looks.accuracies[-1]:.1%}")
    network.load_state_dict(looks.best)
    return looks


def _logits(course: _Course, waveform: Tensor) -> Tensor:
    """Scores (batch, frame, class) of windows."""
    kind = waveform.device
    with torch.autocast(kind.type, torch.bfloat16, enabled=precision("auto", kind) == "bf16"):
        scores: Tensor = course.head(course.model(waveform).c)
    return scores.float()


@torch.inference_mode()
def _held_accuracy(course: _Course, targets: _Targets, how: Topline, device: str) -> float:
    course.model.eval()
    hits = total = 0
    for step, waveform in course.held.batches(0, how.looked_at, torch.device(device)):
        labels = targets.of(course.held, step, course.model)
        right = _logits(course, waveform).argmax(-1).cpu() == labels
        hits, total = hits + int(right.sum()), total + int((labels >= 0).sum())
    return hits / max(1, total)


def _evaluate(
    trial: Trial,
    task: Task,
    course: _Course,
    classes: np.ndarray,
    looks: _Looks,
    steps: int,
    notes: tuple[str, ...],
) -> ProbeResult:
    model, tested = course.model.eval(), trial.rows(trial.test)
    table = extract(model, trial.corpus, tested, ["c"], progress=trial.progress, name=NAME)["c"]
    evaluated = examples(trial, task, Layer(model, "c", NAME), tested, table)
    weight, bias = course.head.weight.detach().T.contiguous(), course.head.bias.detach()
    linear = LinearClassifier(weight, bias, 0.0, steps, looks.settled)
    hits, totals = tally(linear, evaluated.renumbered(classes), len(tested))
    if not looks.settled:
        notes += (f"Training ended after {steps} steps, before the held-out accuracy stopped rising.",)
    chosen = f"the best look at {course.words} kept (accuracy there {max(looks.accuracies):.1%}), not trained on"
    return conclude(
        trial, hits, totals,
        task=task, features=NAME, classifier="end_to_end", classes=len(classes),
        majority=float(np.bincount(evaluated.y).max() / len(evaluated)) if len(evaluated) else 0.0,
        train_utterances=len(course.train.rows), train_examples=int(course.train.lengths.sum()) // model.hop,
        iterations=steps, converged=looks.settled, notes=notes,
        protocol=f"encoder, context network and linear softmax layer trained end to end by Adam, its rate falling to "
        f"zero, on "
        f"{unit(task, trial.labels)}; {chosen}; seed {trial.protocol.seed}; {REPLICATES} bootstrap replicates",
    )  # fmt: skip
