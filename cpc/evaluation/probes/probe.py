"""The strength of the L2 penalty, chosen on a held-out part of the training split.

Strengths are tried from the strongest to the weakest, each from the solution of the one before, on some of the
frames: where there are a million, 25,000 tell the strengths apart. The penalty is a prior on the weights, which counts
for less the more frames there are: what was best on a share of them is multiplied by that share. The solution of the
chosen one is the start of the final classifier, which is fitted on all training frames.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.evaluation.features import Features, FrameTable, LayerName, extract_features, extract_group
from cpc.evaluation.leakage import Unknown, pretraining_note
from cpc.evaluation.probes.dataset import Examples, examples, hold_out, labelled
from cpc.evaluation.probes.linear import Fitting, LinearClassifier, fit
from cpc.evaluation.probes.mlp import HiddenLayerClassifier, fit_mlp
from cpc.evaluation.probes.phoneme_recognition import evaluate_sequences
from cpc.evaluation.probes.protocol import (
    WINDOW,
    ProbeProtocol,
    ProbeSetup,
    Split,
    check,
    find,
    identified,
    make_result,
    place,
)
from cpc.evaluation.results import TASKS, ProbeResult, ProbeTask
from cpc.evaluation.runner import (
    load_checked,
    pretrain_ids,
    progress_line,
    read_state,
    record,
    subject_of,
    with_baselines,
)
from cpc.seeding import derive, numpy_generator

SOME = 25_000  # examples for the choice, held out or not
WORSE = 2  # strengths in a row that are worse than the best so far: weaker ones are not tried
COARSE = 1e-4  # tolerance while choosing on more than FEW examples
FEW = 5_000  # so few are fitted to the minimum, before which their likelihood does not tell strengths apart


@dataclass(frozen=True)
class L2Choice:
    """The chosen strength, the classifier that it gave, and the held-out log-likelihood (nats) of every strength.

    `share`: of the examples that it was chosen on; `for_all` is the same prior for all of them.
    """

    l2: float
    share: float
    start: LinearClassifier
    tried: dict[float, float]

    @property
    def for_all(self) -> float:
        return self.l2 * self.share


def choose_l2(
    train: Examples, held: Examples, classes: int, grid: Sequence[float], fitting: Fitting, seed: int, device: str
) -> L2Choice:
    """The strength whose classifier gives the labels of `held` the highest likelihood.

    Accuracy ties where examples are few (of 100 held-out utterance means every strength may get 93 right), and the
    likelihood goes on telling strengths apart. Labels must be numbered 0 … classes − 1; of held-out examples whose
    class is not among them (classes and above) nothing is asked.
    """
    share = min(1.0, SOME / (len(train) + len(held)))
    parts = (each.draw(max(1, int(len(each) * share)), numpy_generator(seed, "l2")) for each in (train, held))
    (x, y), (held_x, held_y) = ((part.x(), torch.from_numpy(part.y)) for part in parts)
    tolerance = fitting.tolerance if len(x) <= FEW else max(COARSE, fitting.tolerance)
    coarse = replace(fitting, tolerance=tolerance, max_frames=None)
    best: L2Choice | None = None
    tried: dict[float, float] = {}
    start: LinearClassifier | None = None
    for l2 in sorted(grid, reverse=True):
        start = fit(x, y, classes, replace(coarse, l2=l2), device, start)
        tried[l2] = _log_likelihood(start, held_x, held_y)
        if best is None or tried[l2] > tried[best.l2]:
            best = L2Choice(l2, share, start, tried)
        elif list(tried).index(l2) - list(tried).index(best.l2) >= WORSE:
            break
    if best is None:
        raise ValueError("grid: empty; give at least one strength")
    return best


def _log_likelihood(classifier: LinearClassifier, x: Tensor, y: Int64[Tensor, " example"]) -> float:
    """The mean log probability, in nats, of the labels."""
    known = y < classifier.weight.shape[1]
    scores = classifier.logits(x[known]).double().log_softmax(1)
    return float(scores.gather(1, y[known, None]).mean()) if known.any() else 0.0


# --- The classifier that a protocol asks for: chosen on a held-out part of the training split, trained, and counted.


_AT_ONCE = 1 << 26  # values of test examples put together at once: 256 MiB
_MOST_VALUES = 1 << 30  # values of all training examples of a linear classifier: 4 GiB; beyond it, some are drawn

Counts = Int64[np.ndarray, " _"]
Predictor = LinearClassifier | HiddenLayerClassifier


class FittedProbe(NamedTuple):
    """A classifier, how it came to be, and in words what was chosen on the held-out part."""

    classifier: Predictor
    iterations: int
    converged: bool
    l2: float | None
    examples: int
    choice: str


def train_classifier(setup: ProbeSetup, task: ProbeTask, train: Examples, classes: int) -> FittedProbe:
    """Train on labels 0 … classes − 1. What is held out is put back for the linear classifier's last fit."""
    inside, words = _held_out(setup, task, train)
    if setup.protocol.classifier == "linear":
        return _linear(setup, train, inside, words, classes)
    if not inside.any() or inside.all():
        raise InputError(f"{task} probe: a hidden layer is stopped by held-out utterances; give it at least two")
    protocol, kept = setup.protocol, train.take(~inside)
    found = fit_mlp(
        kept, train.take(inside), classes, hidden=protocol.hidden, seed=protocol.seed, device=setup.device
    )  # fmt: skip
    choice = f"stopped early on {words} (accuracy there {found.held_accuracy:.1%}), which it does not train on"
    return FittedProbe(found, found.iterations, found.converged, None, len(kept), choice)


def _held_out(setup: ProbeSetup, task: ProbeTask, train: Examples) -> tuple[Bool[np.ndarray, " example"], str]:
    """Which examples are held out, from the utterances that have any, and what they are in words."""
    places = np.unique(train.utterances)
    rows = setup.rows(setup.train)
    held = hold_out(task, setup.corpus, rows[places], setup.rows(setup.test), setup.protocol.seed)
    out = np.zeros(len(rows), dtype=bool)
    out[places[held.out]] = True
    return out[train.utterances], held.words


def _linear(
    setup: ProbeSetup, train: Examples, inside: Bool[np.ndarray, " example"], words: str, classes: int
) -> FittedProbe:
    protocol, start = setup.protocol, None
    l2, choice = protocol.l2[len(protocol.l2) // 2], "L2 {:.2g}"
    if len(protocol.l2) > 1 and inside.any():
        chosen = choose_l2(
            train.take(~inside), train.take(inside), classes, protocol.l2, protocol.fitting, protocol.seed, setup.device
        )  # fmt: skip
        l2, start = chosen.for_all, chosen.start
        choice = f"L2 {{:.2g}}, chosen on {words} (log-likelihood there {chosen.tried[chosen.l2]:.3f} nats an example)"
    most = min(max(1, _MOST_VALUES // train.dim), protocol.fitting.max_frames or len(train))
    drawn = train.draw(most, numpy_generator(protocol.seed, "frames"))
    if len(drawn) < len(train):
        choice += f", trained on {len(drawn):,} of {len(train):,} examples"
    fitting = replace(protocol.fitting, l2=l2, max_frames=None)
    found = fit(drawn.x(), torch.from_numpy(drawn.y), classes, fitting, setup.device, start)
    return FittedProbe(found, found.iterations, found.converged, l2, len(drawn), choice.format(l2))


def count_correct(classifier: Predictor, test: Examples, utterances: int) -> tuple[Counts, Counts]:
    """How many examples are right, and how many there are, of each test utterance."""
    right = np.zeros(len(test), dtype=bool)
    size = max(1, _AT_ONCE // test.dim)
    for start in range(0, len(test), size):
        chosen = np.arange(start, min(start + size, len(test)))
        right[chosen] = classifier.predict(test.x(chosen)).numpy() == test.y[chosen]
    num_correct = np.bincount(test.utterances, right, minlength=utterances).astype(np.int64)
    return num_correct, np.bincount(test.utterances, minlength=utterances).astype(np.int64)


# --- Probes: how much of the phones and the speakers a simple classifier can read from frozen features.


def probe(
    features: Features,
    corpus: Corpus,
    train: Split,
    test: Split,
    task: ProbeTask,
    *,
    labels: str = "phones",
    pretrain_ids: Sequence[str] | None = None,
    protocol: ProbeProtocol | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> ProbeResult:
    """Train a classifier on the training split and evaluate it on the test split.

    `train` and `test` are split names, files of ids, or ids. Raises InputError if they share utterances, if a
    speaker probe is asked for speakers that it was not trained on, or if labels are missing.
    """
    setup = ProbeSetup(corpus, train, test, labels, protocol or ProbeProtocol(), device, progress)
    check(setup, task)
    window = WINDOW if task == "speaker_last" else None
    tables = [
        extract_features(features, corpus, setup.rows(split), last_of=window, device=device, progress=progress)
        for split in (train, test)
    ]
    result = evaluate(setup, task, features, tables[0], tables[1], pretrain_ids)
    return identified(result, setup, subject_of(features))


def evaluate(
    setup: ProbeSetup,
    task: ProbeTask,
    features: Features,
    train: FrameTable,
    test: FrameTable,
    pretrain_ids: Sequence[str] | None = None,
) -> ProbeResult:
    """The same from features that are already computed for the rows of the setup's splits: all frames of each
    utterance, or for `speaker_last` the last one of each of its windows.
    """
    heard = pretraining_note(setup.corpus, setup.rows(setup.test), pretrain_ids)
    notes = check(setup, task) + heard
    result = measure(setup, task, features, train, test)
    return replace(result, notes=notes + result.notes)


def measure(setup: ProbeSetup, task: ProbeTask, features: Features, train: FrameTable, test: FrameTable) -> ProbeResult:
    """The same for splits that were checked before; its notes are on labels and training alone."""
    if task == "phone_sequence":
        return evaluate_sequences(setup, features, train, test)
    rows, tested = setup.rows(setup.train), setup.rows(setup.test)
    learnt = examples(setup, task, features, rows, train)
    evaluated = examples(setup, task, features, tested, test)
    notes = _empty_note("training", len(rows), learnt) + _empty_note("test", len(tested), evaluated)
    kept = labelled(task, setup.corpus, rows, setup.protocol.budget, setup.protocol.seed)
    learnt = learnt if kept.all() else learnt.take(kept[learnt.utterances])
    return _evaluate(setup, task, features.name, learnt, evaluated, notes)


def _evaluate(
    setup: ProbeSetup, task: ProbeTask, name: str, learnt: Examples, evaluated: Examples, notes: tuple[str, ...]
) -> ProbeResult:
    classes = np.unique(learnt.y)
    if len(classes) < 2 or not len(evaluated):
        rule = "needs at least two classes to train on and one example to test on; check splits and labels"
        raise InputError(f"{task} probe: {len(classes)} classes, {len(evaluated)} test examples: {rule}")
    train, test = learnt.renumbered(classes), evaluated.renumbered(classes)
    trained = train_classifier(setup, task, train, len(classes))
    num_correct, totals = count_correct(trained.classifier, test, len(setup.rows(setup.test)))
    return make_result(
        setup, num_correct, totals,
        task=task, features=setup.protocol.name(name), classes=len(classes), classifier=setup.protocol.classifier,
        majority=float(np.bincount(evaluated.y).max() / len(evaluated)), l2=trained.l2,
        train_utterances=len(np.unique(train.utterances)), train_examples=trained.examples,
        iterations=trained.iterations, converged=trained.converged,
        protocol=setup.protocol.sentence(task, setup.labels, trained.choice),
        notes=notes + _training_notes(trained, test, len(classes)),
    )  # fmt: skip


def _training_notes(trained: FittedProbe, test: Examples, classes: int) -> tuple[str, ...]:
    notes: tuple[str, ...] = ()
    if not trained.converged:
        notes += (f"The classifier did not converge in {trained.iterations} iterations.",)
    if unknown := np.count_nonzero(test.y == classes):
        notes += (f"{unknown} of {len(test)} test examples are of classes without a training example: errors.",)
    return notes


def _empty_note(name: str, utterances: int, given: Examples) -> tuple[str, ...]:
    missing = utterances - len(np.unique(given.utterances))
    return (f"{missing} of {utterances} {name} utterances have no labelled frame.",) if missing else ()


# --- Leave-speakers-out cross-validation: each speaker of both splits is tested by a classifier that never heard them.


def evaluate_folds(setup: ProbeSetup, task: ProbeTask, features: Features, table: FrameTable) -> ProbeResult:
    """Evaluate every fold of `setup.folds` and pool the counts; `table` has the features of the rows `setup.tested`."""
    notes, rows = check(setup, task), setup.tested
    fold = folds_of([setup.corpus.speakers[row] for row in rows.tolist()], setup.folds, setup.protocol.seed)
    results = []
    for number in range(setup.folds):
        inside, outside = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        ids = [[setup.corpus.ids[row] for row in rows[part].tolist()] for part in (outside, inside)]
        part = replace(setup, train=ids[0], test=ids[1], folds=0)
        results.append(measure(part, task, features, table.take(outside), table.take(inside)))
    return _pool(setup, results, notes)


def folds_of(speakers: Sequence[str], count: int, seed: int) -> Int64[np.ndarray, " utterance"]:
    """The fold of each utterance: speakers are dealt out like cards, in the order of a hash of the seed and name."""
    order = sorted(set(speakers) - {""}, key=lambda name: derive(seed, "folds", name))
    fold = {name: place % count for place, name in enumerate(order)} | {"": -1}  # who is not known is in no fold
    return np.array([fold[name] for name in speakers], dtype=np.int64)


def _pool(setup: ProbeSetup, results: Sequence[ProbeResult], notes: tuple[str, ...]) -> ProbeResult:
    counts = {count.id: count for result in results for count in result.utterances}
    ids = [setup.corpus.ids[row] for row in setup.tested.tolist()]
    none = (0, 0, 0, 0)  # of who is in no fold
    num_correct, totals = (np.array([counts.get(id, none)[place] for id in ids], dtype=np.int64) for place in (2, 3))
    first, strengths = results[0], sorted({result.l2 for result in results if result.l2 is not None})
    said = f"{setup.folds} folds over speakers, all choices made anew in each"
    weights = [result.test_examples for result in results]
    return make_result(
        setup, num_correct, totals,
        task=first.task, features=first.features, classifier=first.classifier, classes=max(r.classes for r in results),
        majority=float(np.average([r.majority for r in results], weights=weights)),
        l2=strengths[0] if len(strengths) == 1 else None,
        train_utterances=min(r.train_utterances for r in results),
        train_examples=min(r.train_examples for r in results),
        iterations=sum(r.iterations for r in results), converged=all(r.converged for r in results),
        protocol=f"{said}; in the first: {first.protocol}",
        notes=notes + tuple(dict.fromkeys(note for r in results for note in r.notes)),
    )  # fmt: skip


# --- The layers of a run's model beside the baselines; nothing is computed twice.


KINDS: Mapping[str, tuple[ProbeTask, ...]] = {
    "speaker": ("speaker_frame", "speaker_utterance"),
    **{task: (task,) for task in TASKS},
}
ProbeJob = tuple[Features, ProbeTask, ProbeProtocol]


def probe_run(
    task: str,
    run: Path,
    corpus_path: str | Path | Sequence[str],
    train: str,
    test: str,
    *,
    layers: Sequence[LayerName] = ("z", "c"),
    baselines: bool = True,
    cache: Path,
    device: str = "cpu",
    progress: bool = True,
    pretrain_ids: Sequence[str] | Unknown | None = None,
    labels: str = "phones",
    protocols: Sequence[ProbeProtocol] = (ProbeProtocol(),),
    folds: int = 0,
) -> list[ProbeResult]:
    """Probe a run's model (a run folder or a checkpoint), baselines first: MFCC, log-mel, random, then its layers.

    `task` is one of the tasks, or "speaker" for single frames and utterance means, next to each other for each of the
    features. With several `protocols` each of the features is evaluated by all of them. `pretrain_ids` are the
    utterances that the model was trained on, if they are known. What was computed once is kept in `cache`.
    Raises InputError for splits that cannot be evaluated, before anything is computed.
    """
    if task not in KINDS:
        raise InputError(f"task={task}: must be one of {', '.join(KINDS)}")
    setup = ProbeSetup(Corpus.open(corpus_path), train, test, labels, device=device, progress=progress, folds=folds)
    for each, protocol in ((each, protocol) for each in KINDS[task] for protocol in protocols):
        check(replace(setup, protocol=protocol), each)

    def measure(group: Sequence[Features]) -> list[ProbeResult]:
        return probe_cached(group, setup, KINDS[task], cache, protocols)

    heard = pretraining_note(setup.corpus, setup.tested, pretrain_ids)
    return with_baselines(load_checked(run, layers, device), layers, baselines, measure, heard)


def probe_cached(
    group: Sequence[Features],
    setup: ProbeSetup,
    tasks: Sequence[ProbeTask],
    cache: Path,
    protocols: Sequence[ProbeProtocol] = (ProbeProtocol(),),
) -> list[ProbeResult]:
    """Evaluate features that come out of one pass over the audio (the layers of one model) on several tasks, by several
    protocols; from `cache` where the same was computed before.
    """
    jobs = [(features, task, protocol) for features in group for task in tasks for protocol in protocols]
    subjects = {features.name: {"name": features.name, **features.settings} for features in group}
    paths = {}
    for features, task, protocol in jobs:
        where = place(cache, subjects[features.name], replace(setup, protocol=protocol), task)
        paths[features.name, task, protocol] = where
    found = {job: result for job, path in paths.items() if (result := find(path, setup)) is not None}
    missing = [job for job in jobs if (job[0].name, *job[1:]) not in found]
    for (features, task, protocol), result in _compute(missing, setup, cache / "features"):
        found[features.name, task, protocol] = result
        result.write(paths[features.name, task, protocol])
    known = {features.name: subject_of(features) for features in group}
    return [
        identified(result, replace(setup, protocol=job[2]), known[job[0]])
        for job, result in ((job, found[job]) for job in paths)
    ]


def _compute(jobs: Sequence[ProbeJob], setup: ProbeSetup, cache: Path) -> Iterator[tuple[ProbeJob, ProbeResult]]:
    """Every job with its result, from one pass over the audio; `speaker_last` needs another, of windows alone."""
    for window in (None, WINDOW):
        due = [job for job in jobs if (job[1] == "speaker_last") == (window is not None)]
        group = list({id(job[0]): job[0] for job in due}.values())
        splits = [setup.tested] if setup.folds else [setup.rows(setup.train), setup.rows(setup.test)]
        tables = (
            [
                extract_group(
                    group,
                    setup.corpus,
                    rows,
                    last_of=window,
                    device=setup.device,
                    progress=setup.progress,
                    cache=cache,
                )
                for rows in splits
            ]
            if due
            else []
        )
        for job in due:
            own = [table[group.index(job[0])] for table in tables]
            yield job, _announced(job, setup, own)


def _announced(job: ProbeJob, setup: ProbeSetup, tables: Sequence[FrameTable]) -> ProbeResult:
    features, task, protocol = job
    asked = replace(setup, protocol=protocol)
    kind = "" if protocol.classifier == "linear" else f" {protocol.classifier}"
    budget = "" if protocol.budget == 100 else f", {protocol.budget:g}% of the labels"
    with progress_line(f"{task}{kind} probe of {protocol.name(features.name)}{budget}", setup.progress) as said:
        if setup.folds:
            result = evaluate_folds(asked, task, features, tables[0])
        else:
            result = evaluate(asked, task, features, tables[0], tables[1])
        rate = f"{1 - result.accuracy:.1%} errors" if task == "phone_sequence" else f"{result.accuracy:.1%}"
        said.append(rate + (f", L2 {result.l2:.2g}" if result.l2 else ""))
    return result


def probe_and_record(
    task: str,
    run: Path,
    corpus: str | Path | Sequence[str],
    train: str,
    test: str,
    *,
    layers: Sequence[LayerName] = ("z", "c"),
    baselines: bool = True,
    device: str = "cpu",
    progress: bool = True,
    protocols: Sequence[ProbeProtocol] = (ProbeProtocol(),),
    folds: int = 0,
) -> list[ProbeResult]:
    """Probe the model of a run folder and its baselines; write runs/NAME/probes/*.json and MLflow metrics.

    Raises:
        InputError: `run` is not the folder of a trained run, or the splits cannot be evaluated.
    """
    read_state(run)
    results = probe_run(
        task,
        run,
        corpus,
        train,
        test,
        layers=layers,
        baselines=baselines,
        cache=run.parent / ".cache",
        device=device,
        progress=progress,
        pretrain_ids=pretrain_ids(run),
        protocols=protocols,
        folds=folds,
    )
    record(results, run)
    return results
