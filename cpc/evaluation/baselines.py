"""A probe session: the layers of a run's model beside the baselines; nothing is computed twice.

The baselines say what a number is worth: MFCC and log-mel are what speech recognition used before anything was
learnt, and a model of the same architecture with random weights shows what the architecture alone gives.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from cpc.config import InputError
from cpc.corpus.corpus import Corpus
from cpc.evaluation.features import Features, FrameTable, Layer, LayerName, extract, extract_features
from cpc.evaluation.leakage import pretraining_note
from cpc.evaluation.probe import REPLICATES, Rows, Trial, check, judge
from cpc.evaluation.result import ProbeResult, Task
from cpc.model import CPC, build, load
from cpc.nn.frontends import MFCC39, LogMel

VERSION = 1  # part of every cache key: raise it when a change of code changes any probe's numbers
RANDOM_SEED = 0
KINDS: Mapping[str, tuple[Task, ...]] = {"phone": ("phone",), "speaker": ("speaker_frame", "speaker_utterance")}


def probe_run(
    task: Literal["phone", "speaker"],
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
    pretrain_ids: Sequence[str] | None = None,
    labels: str = "phones",
) -> list[ProbeResult]:
    """Probe a run's model (a run folder or a checkpoint), baselines first: MFCC, log-mel, random, then its layers.

    "speaker" means both speaker tasks, next to each other for each of the features. `pretrain_ids` are the
    utterances that the model was trained on, if they are known. What was computed once is kept in `cache`.
    Raises InputError for splits that cannot be judged, before anything is computed.
    """
    if task not in KINDS:
        raise InputError(f"task={task}: must be one of {', '.join(KINDS)}")
    trial = Trial(Corpus.open(corpus_path), train, test, labels, device=device, progress=progress)
    for each in KINDS[task]:
        check(trial, each)
    model = load(run, device)
    results: list[ProbeResult] = []
    for group in _baselines(model, layers, device) if baselines else ():
        results += probe_cached(group, trial, KINDS[task], cache)
    own = probe_cached([Layer(model, layer) for layer in layers], trial, KINDS[task], cache)
    heard = pretraining_note(trial.corpus, trial.rows(test), pretrain_ids)
    return results + [replace(result, notes=result.notes + heard) for result in own]


def _baselines(model: CPC, layers: Sequence[LayerName], device: str) -> Iterator[Sequence[Features]]:
    yield [MFCC39().to(device)]
    yield [LogMel().to(device)]
    untrained = build(model.config, RANDOM_SEED).to(device)
    yield [Layer(untrained, layer, "random") for layer in layers]


def probe_group(
    group: Sequence[Features],
    trial: Trial,
    tasks: Sequence[Task],
) -> list[ProbeResult]:
    """Judge features that come out of one pass over the audio (the layers of one model) on several tasks."""
    train, test = (_extract(group, trial, trial.rows(split)) for split in (trial.train, trial.test))
    results = []
    for features, learn, judged in zip(group, train, test, strict=True):
        for task in tasks:
            with _announced(f"{task} probe of {features.name}", trial.progress) as said:
                results.append(judge(trial, task, features, learn, judged))
                said.append(f"{results[-1].accuracy:.1%}")
    return results


def _extract(group: Sequence[Features], trial: Trial, rows: Rows) -> list[FrameTable]:
    corpus, progress, first = trial.corpus, trial.progress, group[0]
    layers = [member.layer for member in group if isinstance(member, Layer)]
    if isinstance(first, Layer) and len(layers) == len(group):
        tables = extract(first.model, corpus, rows, layers, progress=progress, name=first.origin)
        return [tables[layer] for layer in layers]
    return [extract_features(each, corpus, rows, device=trial.device, progress=progress) for each in group]


@contextmanager
def _announced(what: str, shown: bool) -> Iterator[list[str]]:
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


def probe_cached(group: Sequence[Features], trial: Trial, tasks: Sequence[Task], cache: Path) -> list[ProbeResult]:
    """The same as `probe_group`, from `cache`/KEY.json where the same was computed before.

    KEY hashes all that determines the result: features, audio, labels, the ids of both splits, task, classifier.
    """
    paths = {(f.name, task): cache / f"{_key(f, trial, task)}.json" for f in group for task in tasks}
    found = {place: result for place, path in paths.items() if (result := _read(path, trial)) is not None}
    if len(found) < len(paths):
        for result in probe_group(group, trial, tasks):
            found[result.features, result.task] = result
            result.write(paths[result.features, result.task])
    return [found[place] for place in paths]


def _read(path: Path, trial: Trial) -> ProbeResult | None:
    """A cached result under the names by which its data go today; None where there is none that can be read."""
    try:
        result = ProbeResult.read(path)
    except (FileNotFoundError, ValueError):
        return None
    names = trial.split_names
    return replace(result, corpus=trial.corpus.name, train=names["train"], test=names["test"])


def _key(features: Features, trial: Trial, task: Task) -> str:
    corpus = trial.corpus
    facts = {
        "version": VERSION,
        "features": {"name": features.name, **features.settings},
        "corpus": corpus.digest,
        "labels": _labels_digest(trial) if task == "phone" else None,
        "train": [corpus.ids[row] for row in trial.rows(trial.train).tolist()],
        "test": [corpus.ids[row] for row in trial.rows(trial.test).tolist()],
        "task": task,
        "fitting": asdict(trial.fitting),
        "replicates": REPLICATES,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _labels_digest(trial: Trial) -> list[str]:
    trial.corpus.labels(trial.labels)  # says what is wrong where there are none
    info = json.loads((trial.corpus.path / "labels" / f"{trial.labels}.json").read_text(encoding="utf-8"))
    return [trial.labels, info["sha256"]]
