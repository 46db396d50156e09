"""A probe session: the layers of a run's model beside the baselines; nothing is computed twice."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cpc.config import InputError
from cpc.corpus.corpus import Corpus
from cpc.evaluation.cache import find, identified, place
from cpc.evaluation.features import Features, FrameTable, extract, extract_features
from cpc.evaluation.folds import judge_folds
from cpc.evaluation.layers import Layer, LayerName
from cpc.evaluation.leakage import Unknown, pretraining_note
from cpc.evaluation.probe import judge
from cpc.evaluation.protocol import WINDOW, Protocol
from cpc.evaluation.result import TASKS, ProbeResult, Task
from cpc.evaluation.session import beside_baselines, load_checked, subject_of
from cpc.evaluation.trial import Rows, Trial, check

KINDS: Mapping[str, tuple[Task, ...]] = {
    "speaker": ("speaker_frame", "speaker_utterance"),
    **{task: (task,) for task in TASKS},
}
Job = tuple[Features, Task, Protocol]


def probe_run(
    task: str,
    run: Path,
    corpus_path: Path,
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
    protocols: Sequence[Protocol] = (Protocol(),),
    folds: int = 0,
) -> list[ProbeResult]:
    """Probe a run's model (a run folder or a checkpoint), baselines first: MFCC, log-mel, random, then its layers.

    `task` is one of the tasks, or "speaker" for single frames and utterance means, next to each other for each of the
    features. With several `protocols` each of the features is judged by all of them. `pretrain_ids` are the
    utterances that the model was trained on, if they are known. What was computed once is kept in `cache`.
    Raises InputError for splits that cannot be judged, before anything is computed.
    """
    if task not in KINDS:
        raise InputError(f"task={task}: must be one of {', '.join(KINDS)}")
    trial = Trial(Corpus.open(corpus_path), train, test, labels, device=device, progress=progress, folds=folds)
    for each, protocol in ((each, protocol) for each in KINDS[task] for protocol in protocols):
        check(replace(trial, protocol=protocol), each)

    def measure(group: Sequence[Features]) -> list[ProbeResult]:
        return probe_cached(group, trial, KINDS[task], cache, protocols)

    heard = pretraining_note(trial.corpus, trial.tested, pretrain_ids)
    return beside_baselines(load_checked(run, layers, device), layers, baselines, measure, heard)


def probe_cached(
    group: Sequence[Features],
    trial: Trial,
    tasks: Sequence[Task],
    cache: Path,
    protocols: Sequence[Protocol] = (Protocol(),),
) -> list[ProbeResult]:
    """Judge features that come out of one pass over the audio (the layers of one model) on several tasks, by several
    protocols; from `cache` where the same was computed before.
    """
    jobs = [(features, task, protocol) for features in group for task in tasks for protocol in protocols]
    subjects = {features.name: {"name": features.name, **features.settings} for features in group}
    paths = {}
    for features, task, protocol in jobs:
        where = place(cache, subjects[features.name], replace(trial, protocol=protocol), task)
        paths[features.name, task, protocol] = where
    found = {job: result for job, path in paths.items() if (result := find(path, trial)) is not None}
    missing = [job for job in jobs if (job[0].name, *job[1:]) not in found]
    for (features, task, protocol), result in _compute(missing, trial):
        found[features.name, task, protocol] = result
        result.write(paths[features.name, task, protocol])
    known = {features.name: subject_of(features) for features in group}
    return [
        identified(result, replace(trial, protocol=job[2]), known[job[0]])
        for job, result in ((job, found[job]) for job in paths)
    ]


def _compute(jobs: Sequence[Job], trial: Trial) -> Iterator[tuple[Job, ProbeResult]]:
    """Every job with its result, from one pass over the audio; `speaker_last` needs another, of windows alone."""
    for window in (None, WINDOW):
        due = [job for job in jobs if (job[1] == "speaker_last") == (window is not None)]
        group = list({id(job[0]): job[0] for job in due}.values())
        splits = [trial.tested] if trial.folds else [trial.rows(trial.train), trial.rows(trial.test)]
        tables = [_extract(group, trial, rows, window) for rows in splits] if due else []
        for job in due:
            own = [table[group.index(job[0])] for table in tables]
            yield job, _judge(job, trial, own)


def _judge(job: Job, trial: Trial, tables: Sequence[FrameTable]) -> ProbeResult:
    features, task, protocol = job
    asked = replace(trial, protocol=protocol)
    kind = "" if protocol.classifier == "linear" else f" {protocol.classifier}"
    budget = "" if protocol.budget == 100 else f", {protocol.budget:g}% of the labels"
    with announced(f"{task}{kind} probe of {protocol.name(features.name)}{budget}", trial.progress) as said:
        if trial.folds:
            result = judge_folds(asked, task, features, tables[0])
        else:
            result = judge(asked, task, features, tables[0], tables[1])
        said.append(f"{result.accuracy:.1%}" + (f", L2 {result.l2:.2g}" if result.l2 else ""))
    return result


def _extract(group: Sequence[Features], trial: Trial, rows: Rows, window: int | None) -> list[FrameTable]:
    corpus, progress, first = trial.corpus, trial.progress, group[0]
    layers = [member.layer for member in group if isinstance(member, Layer)]
    if isinstance(first, Layer) and len(layers) == len(group):
        tables = extract(first.model, corpus, rows, layers, last_of=window, progress=progress, name=first.origin)
        return [tables[layer] for layer in layers]
    return [
        extract_features(each, corpus, rows, last_of=window, device=trial.device, progress=progress) for each in group
    ]


@contextmanager
def announced(what: str, shown: bool) -> Iterator[list[str]]:
    """On stderr: a spinner while it lasts, and one line when it is over with what the block has put in the list."""
    from rich.console import Console

    console, start, said = Console(stderr=True, quiet=not shown, soft_wrap=True), time.monotonic(), list[str]()
    if console.is_terminal:
        with console.status(what):
            yield said
    else:
        yield said
    line = f"{what}: {', '.join(said)} ({time.monotonic() - start:.0f} s)"
    console.print(line, highlight=False, markup=False)
