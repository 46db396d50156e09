"""How labels are read off features: the classifier, what it sees, how many labels it gets, and a name for all that."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.data.splits import has_speaker
from cpc.evaluation import leakage
from cpc.evaluation.phones import silent_classes
from cpc.evaluation.probes.linear import Fitting
from cpc.evaluation.results import SHORT, TASKS, Count, ProbeResult, ProbeTask, key
from cpc.evaluation.stats import bootstrap_interval, by_cluster

VERSION = 5  # part of every key: raise it when a change of code changes any probe's numbers
GRID = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
REPLICATES = 2000  # of the bootstrap
CTC_STEP, CTC_LR = 0.04, 2e-3  # seconds from one output of `phone_sequence` to the next, each of twice as much; of Adam
WINDOW = 20480  # samples of a `speaker_last` window: 1.28 s at 16 kHz, as in CPC_audio


@dataclass(frozen=True)
class ProbeProtocol:
    """The choices of a probe.

    classifier: `linear`, softmax regression; `mlp`, one hidden layer of `hidden` ReLU units.
    context: frames on either side that are put beside each frame (in the tasks that evaluate single frames).
    budget: percent of the training utterances whose labels are used, drawn by `seed`; a larger budget holds a smaller.
    l2: strengths among which one is chosen on a held-out part of the training split; a single one is taken as it is.
        The hidden layer has none: it is stopped early, on the same part.
    seed: of the held-out part, the budget, and all that is drawn in training.

    Raises InputError for impossible choices.
    """

    classifier: Literal["linear", "mlp"] = "linear"
    context: int = 0
    budget: float = 100.0
    l2: tuple[float, ...] = GRID
    seed: int = 0
    hidden: int = 1024
    fitting: Fitting = field(default_factory=Fitting)

    def __post_init__(self) -> None:
        rules = {
            f"classifier={self.classifier}: must be linear or mlp": self.classifier in ("linear", "mlp"),
            f"context={self.context}: must be 0 or more frames": self.context >= 0,
            f"budget={self.budget:g}: percent of the training utterances; must be above 0, at most 100": (
                0 < self.budget <= 100
            ),
            f"l2={self.l2}: must hold at least one strength, all above 0": bool(self.l2) and min(self.l2) > 0,
            f"hidden={self.hidden}: must be at least 1 unit": self.hidden >= 1,
        }
        if broken := [rule for rule, holds in rules.items() if not holds]:
            raise InputError("\n".join(broken))

    def name(self, features: str) -> str:
        """The features with what they are seen with: "MFCC ±8"."""
        return f"{features} ±{self.context}" if self.context else features

    def sentence(self, task: ProbeTask, labels: str, choice: str) -> str:
        """The protocol in words; `choice` says what training chose on its held-out part."""
        beside = f" with {self.context} frames on either side" if self.context else ""
        parts = [f"{self._kind(task)} on {unit(task, labels)}{beside}; standardised by training statistics", choice]
        if self.budget < 100:
            parts.append(f"{self.budget:g}% of the training utterances labelled")
        return "; ".join([*parts, f"seed {self.seed}", f"{REPLICATES} bootstrap replicates"])

    def _kind(self, task: ProbeTask) -> str:
        if task == "phone_sequence":
            return "linear layer over 80 ms, every 40 ms, trained with CTC by Adam, greedy decoding,"
        if self.classifier == "mlp":
            return f"one hidden layer of {self.hidden} ReLU units and softmax, trained by Adam,"
        return f"linear softmax classifier, trained by L-BFGS to a relative change of {self.fitting.tolerance:g},"


def unit(task: ProbeTask, labels: str) -> str:
    """What one example of a task is, in words."""
    return {
        "phone": f"single frames, labelled by `{labels}` at their centres in time",
        "phone_sequence": f"the frames of each utterance, against its phones in `{labels}` without silences",
        "speaker_frame": "every frame on its own",
        "speaker_last": f"the last frame of each window of {WINDOW} samples, computed from the window alone",
        "speaker_utterance": "the mean over each utterance",
    }[task]


# --- What a probe is asked: data, labels, protocol; and its answer as a result with intervals.


Rows = Int64[np.ndarray, " _"]
Split = str | Sequence[str]


@dataclass(frozen=True)
class ProbeSetup:
    """All that a probe needs besides the features."""

    corpus: Corpus
    train: Split
    test: Split
    labels: str = "phones"
    protocol: ProbeProtocol = field(default_factory=ProbeProtocol)
    device: str = "cpu"
    progress: bool = False
    folds: int = 0  # parts of the speakers of both splits, each evaluated by a classifier of the others; 0 for none

    def rows(self, split: Split) -> Rows:
        """Rows in the order of the corpus, each once: a split is a set."""
        return np.unique(self.corpus.rows(split))

    @property
    def split_names(self) -> dict[str, str]:
        """How a result names its splits."""
        splits = {"train": self.train, "test": self.test}
        names = {side: s if isinstance(s, str) else f"{len(s)} ids" for side, s in splits.items()}
        if not self.folds:
            return names
        both = "+".join(Path(name).stem for name in names.values())
        return {"train": f"the other {self.folds - 1} folds", "test": f"{both}-{self.folds}folds"}

    @property
    def tested(self) -> Rows:
        """Rows of the test split; with folds, of both splits."""
        return np.union1d(self.rows(self.train), self.rows(self.test)) if self.folds else self.rows(self.test)


def check(setup: ProbeSetup, task: ProbeTask) -> tuple[str, ...]:
    """What the splits share, as sentences. Raises InputError before anything is computed for an unfit setup."""
    if task not in TASKS:
        raise InputError(f"task={task}: must be one of {', '.join(TASKS)}")
    if setup.protocol.context and task not in ("phone", "speaker_frame"):
        rule = "frames beside each frame are for the tasks phone and speaker_frame; leave it at 0"
        raise InputError(f"context={setup.protocol.context}: {task} does not evaluate single frames; {rule}")
    if setup.protocol.classifier != "linear" and task == "phone_sequence":
        raise InputError("classifier=mlp: phone_sequence is a linear layer with CTC; leave it at linear")
    if setup.folds:
        return _check_folds(setup, task)
    return leakage.check(task, setup.corpus, setup.rows(setup.train), setup.rows(setup.test))


def _check_folds(setup: ProbeSetup, task: ProbeTask) -> tuple[str, ...]:
    if task.startswith("speaker"):
        raise InputError(f"folds={setup.folds}: folds are over speakers, whom {task} has to know; use them for phones")
    speakers = len({setup.corpus.speakers[row] for row in setup.tested.tolist()} - {""})
    nobody = int(np.count_nonzero(~has_speaker(setup.corpus, setup.tested)))
    if not 2 <= setup.folds <= speakers:
        raise InputError(f"folds={setup.folds}: must lie between 2 and {speakers}, the number of speakers")
    said = (f"{nobody} utterances have no known speaker: they are trained on in every fold and never evaluated.",)
    rule = f"Each of the {speakers} speakers is evaluated by a classifier that was trained on other speakers."
    return (rule, *said) if nobody else (rule,)


def make_result(setup: ProbeSetup, num_correct: Rows, totals: Rows, **facts: Any) -> ProbeResult:
    """A result of a probe.

    Args:
        setup: what was asked.
        num_correct: examples that are right, of each test utterance in the order of their rows.
        totals: all examples of each.
        facts: the rest of the result's fields.

    Returns:
        The result, with its intervals over utterances and speakers.
    """
    corpus, seed = setup.corpus, setup.protocol.seed
    rows = setup.tested.tolist()
    speakers = [corpus.speakers[row] for row in rows]
    low, high = bootstrap_interval(num_correct, totals, replicates=REPLICATES, seed=seed)
    over = over_speakers(speakers, num_correct, totals, seed)
    counts = zip([corpus.ids[row] for row in rows], speakers, num_correct.tolist(), totals.tolist(), strict=True)
    names = setup.split_names
    return ProbeResult(
        train=names["train"],
        test=names["test"],
        accuracy=float(num_correct.sum() / totals.sum()),
        low=low,
        high=high,
        speakers_low=over[0],
        speakers_high=over[1],
        test_utterances=int(np.count_nonzero(totals)),
        test_examples=int(totals.sum()),
        corpus=corpus.name,
        budget=setup.protocol.budget,
        seed=seed,
        utterances=tuple(Count(*count) for count in counts),
        **facts,
    )


def over_speakers(
    speakers: Sequence[str], num_correct: Rows, totals: Rows, seed: int
) -> tuple[float, float] | tuple[None, None]:
    """The interval over known speakers; none for fewer than two."""
    known = np.array([name != "" for name in speakers], dtype=bool)
    by_speaker = by_cluster([name for name in speakers if name], num_correct[known], totals[known])
    if np.count_nonzero(by_speaker[1]) < 2:
        return None, None
    return bootstrap_interval(by_speaker[0], by_speaker[1], replicates=REPLICATES, seed=seed)


# --- Results that were computed before, under a key of all that determines them.


def place(cache: Path, subject: Mapping[str, object], setup: ProbeSetup, task: ProbeTask) -> Path:
    """`cache`/KEY.json of one result.

    KEY hashes all that determines it: `subject` (what is evaluated, as plain values), audio, labels, the ids of both
    splits, task and protocol.
    """
    corpus = setup.corpus
    facts = {
        "version": VERSION,
        "subject": subject,
        "corpus": corpus.digest,
        "labels": None if task.startswith("speaker") else _labels_digest(setup),
        "train": [corpus.ids[row] for row in setup.rows(setup.train).tolist()],
        "test": [corpus.ids[row] for row in setup.rows(setup.test).tolist()],
        "folds": setup.folds,
        "task": task,
        "window": WINDOW if task == "speaker_last" else None,
        "protocol": asdict(setup.protocol),
        "replicates": REPLICATES,
        **({"ctc": [CTC_STEP, CTC_LR], "silences": _silences(setup)} if task == "phone_sequence" else {}),
    }
    return cache / f"{key(facts)}.json"


def _silences(setup: ProbeSetup) -> list[int]:
    alignment = setup.corpus.labels(setup.labels)
    return silent_classes(alignment.inventory, alignment.silences)


def identified(result: ProbeResult, setup: ProbeSetup, subject: str = "") -> ProbeResult:
    """A result with what tells it from others besides its fields: the fingerprint of data and protocol.

    What the name says in full (features, classifier, seed, budget) has no part in it, so that results of the same data
    share a column.
    """
    corpus, protocol = setup.corpus, asdict(setup.protocol)
    facts = {
        "corpus": corpus.digest,
        "labels": None if result.task.startswith("speaker") else _labels_digest(setup),
        "train": [corpus.ids[row] for row in setup.rows(setup.train).tolist()],
        "test": [corpus.ids[row] for row in setup.rows(setup.test).tolist()],
        "folds": setup.folds,
        "protocol": {name: protocol[name] for name in ("l2", "hidden", "fitting")},
    }
    return replace(result, labels=setup.labels, fingerprint=key(facts)[:SHORT], subject=subject)


def find(path: Path, setup: ProbeSetup) -> ProbeResult | None:
    """A cached result under the names by which its data go today; None where there is none that can be read."""
    try:
        result = ProbeResult.read(path)
    except (FileNotFoundError, ValueError):
        return None
    names = setup.split_names
    return replace(result, corpus=setup.corpus.name, train=names["train"], test=names["test"])


def _labels_digest(setup: ProbeSetup) -> list[str]:
    return [setup.labels, *setup.corpus.labels(setup.labels).sha256]
