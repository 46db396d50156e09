"""Results that were computed before, under a key of all that determines them: restarting costs nothing twice."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from cpc.evaluation.phones import silent_classes
from cpc.evaluation.probes.phoneme_recognition import LR, STEP
from cpc.evaluation.probes.protocol import REPLICATES, WINDOW, Trial
from cpc.evaluation.results import SHORT, ProbeResult, Task

VERSION = 4  # part of every key: raise it when a change of code changes any probe's numbers


def place(cache: Path, subject: Mapping[str, object], trial: Trial, task: Task) -> Path:
    """`cache`/KEY.json of one result.

    KEY hashes all that determines it: `subject` (what is judged, as plain values), audio, labels, the ids of both
    splits, task and protocol.
    """
    corpus = trial.corpus
    facts = {
        "version": VERSION,
        "subject": subject,
        "corpus": corpus.digest,
        "labels": None if task.startswith("speaker") else _labels_digest(trial),
        "train": [corpus.ids[row] for row in trial.rows(trial.train).tolist()],
        "test": [corpus.ids[row] for row in trial.rows(trial.test).tolist()],
        "folds": trial.folds,
        "task": task,
        "window": WINDOW if task == "speaker_last" else None,
        "protocol": asdict(trial.protocol),
        "replicates": REPLICATES,
        **({"ctc": [STEP, LR], "silences": _silences(trial)} if task == "phone_sequence" else {}),
    }
    return cache / f"{key(facts)}.json"


def key(facts: Mapping[str, object]) -> str:
    """A name for all that determines a result, given as plain values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _silences(trial: Trial) -> list[int]:
    alignment = trial.corpus.labels(trial.labels)
    return silent_classes(alignment.inventory, alignment.silences)


def identified(result: ProbeResult, trial: Trial, subject: str = "") -> ProbeResult:
    """A result with what tells it from others besides its fields: the fingerprint of data and protocol.

    What the name says in full (features, classifier, seed, budget) has no part in it, so that results of the same data
    share a column.
    """
    corpus, protocol = trial.corpus, asdict(trial.protocol)
    facts = {
        "corpus": corpus.digest,
        "labels": None if result.task.startswith("speaker") else _labels_digest(trial),
        "train": [corpus.ids[row] for row in trial.rows(trial.train).tolist()],
        "test": [corpus.ids[row] for row in trial.rows(trial.test).tolist()],
        "folds": trial.folds,
        "protocol": {name: protocol[name] for name in ("l2", "hidden", "fitting")},
    }
    return replace(result, labels=trial.labels, fingerprint=key(facts)[:SHORT], subject=subject)


def find(path: Path, trial: Trial) -> ProbeResult | None:
    """A cached result under the names by which its data go today; None where there is none that can be read."""
    try:
        result = ProbeResult.read(path)
    except (FileNotFoundError, ValueError):
        return None
    names = trial.split_names
    return replace(result, corpus=trial.corpus.name, train=names["train"], test=names["test"])


def _labels_digest(trial: Trial) -> list[str]:
    trial.corpus.labels(trial.labels)  # says what is wrong where there are none
    info = json.loads((trial.corpus.path / "labels" / f"{trial.labels}.json").read_text(encoding="utf-8"))
    return [trial.labels, info["sha256"]]
