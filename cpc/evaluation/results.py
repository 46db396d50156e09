"""Results as JSON files, and the names by which they are told apart.

Files are written whole or not at all, and read back only where every field is known and there. A result has one
`Identity`, made of all that tells it from another; the names of its file and of its metrics in MLflow, and its column
in a table, come from that alone.
"""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar, get_args

from cpc.config import InputError
from cpc.io import write_json, write_text

if TYPE_CHECKING:
    from rich.table import Table

Own = TypeVar("Own", bound="Saved")
BETWEEN = "--"  # parts of a name; within one there is none
LABELLED = ("from", "labels", "seed", "budget")  # words that a part may begin with: from_TRAIN, seed_1
SHORT = 6  # hexadecimal digits of a fingerprint in a name
_LONGEST = 40  # letters of a part: MLflow takes names of 250, and the fingerprint tells apart what is cut here


class Identity(NamedTuple):
    """What no other result has.

    kind: probe, budget, abx or verification. task: what was asked. where: SPLIT--CORPUS, then what is not usual, and
    the fingerprint of the data. features: in the letters of a file, with a fingerprint where the name is not enough.
    """

    kind: str
    task: str
    where: str
    features: str

    @property
    def column(self) -> str:
        """Of a table: TASK/WHERE, or KIND/WHERE/TASK of error rates. Only numbers of one column are compared."""
        return (
            f"{self.task}/{self.where}" if self.kind in ("probe", "budget") else f"{self.kind}/{self.where}/{self.task}"
        )

    @property
    def metric(self) -> str:
        """In MLflow, without the measure at its end."""
        kind = f"{self.kind}/" if self.kind in ("probe", "budget") else ""
        return f"{kind}{self.column}/{self.features.removeprefix('cpc_')}"

    @property
    def file(self) -> str:
        """Among the results of a run."""
        return f"{self.task}-{self.where}-{self.features}.json"


@dataclass(frozen=True)
class Saved(ABC):
    """A result of `features`, with `notes`.

    A subclass whose fields JSON does not know says in `_plain` and `_typed` what they are.
    """

    KIND: ClassVar[str] = "result"
    FOLDER: ClassVar[str] = "results"  # in the run's folder, and of its artifacts in MLflow
    REMEDY: ClassVar[str] = "measure again with this version"

    if TYPE_CHECKING:  # every subclass has these fields

        @property
        def features(self) -> str: ...
        @property
        def subject(self) -> str: ...

    @property
    @abstractmethod
    def identity(self) -> Identity:
        """What tells this result from every other one."""

    @property
    def slug(self) -> str:
        """The features' name in the letters of a metric or a file: "CPC z" is cpc_z, "log-mel" is logmel."""
        return slug(self.features)

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Its numbers by the last part of their names in MLflow."""

    @property
    @abstractmethod
    def description(self) -> str:
        """On what data and how it was measured, in one sentence."""

    @property
    def where(self) -> str:
        """The data in the letters of a metric or a file: SPLIT--CORPUS--…"""
        return self.identity.where

    @property
    def file_name(self) -> str:
        """A name that no other result has."""
        return self.identity.file

    @property
    def metric_name(self) -> str:
        """A name in MLflow that no other result has."""
        return self.identity.metric

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        values = asdict(self)
        return values | {"notes": list(values["notes"])} | self._plain()

    @classmethod
    def from_dict(cls: type[Own], values: Mapping[str, Any]) -> Own:
        """The inverse of `to_dict`. Raises InputError where fields are missing or unknown."""
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        known, given = {field.name for field in fields(cls)}, set(values)
        if wrong := sorted((needed - given) | (given - known)):
            raise InputError(f"{cls.KIND}: {', '.join(wrong)} missing or unknown; {cls.REMEDY}")
        return cls(**{**values, "notes": tuple(values.get("notes", ())), **cls._typed(values)})

    def write(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, self.to_dict())

    @classmethod
    def read(cls: type[Own], path: Path) -> Own:
        """Read what `write` wrote."""
        return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))

    def _plain(self) -> dict[str, Any]:
        return {}

    @classmethod
    def _typed(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        return {}


def key(facts: Mapping[str, object]) -> str:
    """A name for all that determines a result, given as plain values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def letters(text: str) -> str:
    """A text in the letters of a metric or a file name."""
    return "".join(letter if letter.isalnum() or letter in "_-." else "_" for letter in text)


def slug(features: str) -> str:
    """The name of features in such letters: "CPC z" is cpc_z, "log-mel" is logmel."""
    return letters(features.lower().replace("-", ""))


def joined(*parts: str) -> str:
    """Parts of a name, the empty ones left out, in the letters of a metric or a file."""
    return BETWEEN.join(re.sub("-{2,}", "-", letters(part)).strip("-")[:_LONGEST] or "_" for part in parts if part)


def headings(names: Sequence[str]) -> dict[str, str]:
    """Column → the same for a reader: beside the split only that by which it differs from the others of its task.

    The fingerprint is named only where nothing else differs.
    """
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in names:
        task, where, *rest = name.split("/")
        groups[task, where.split(BETWEEN)[0], *rest].append(name)
    found = {}
    for (task, split, *rest), group in groups.items():
        parts = {name: name.split("/")[1].split(BETWEEN)[1:] for name in group}
        shared = set.intersection(*(set(each) for each in parts.values()))
        own = {name: [part for part in each if part not in shared] for name, each in parts.items()}
        plain = {
            name: [part for part in each if not re.fullmatch(f"[0-9a-f]{{{SHORT}}}", part)]
            for name, each in own.items()
        }
        if len({tuple(each) for each in plain.values()}) == len(group):
            own = plain
        for name, each in own.items():
            found[name] = "/".join([task, ", ".join([split, *map(_words, each)]), *rest])
    return {name: found[name] for name in names}


def _words(part: str) -> str:
    first, _, rest = part.partition("_")
    return f"{first} {rest}" if first in LABELLED and rest else part


# --- The result of one probe: a number, its intervals, the conditions without which it means nothing, and every


ProbeTask = Literal["phone", "phone_sequence", "speaker_frame", "speaker_last", "speaker_utterance"]
TASKS: tuple[ProbeTask, ...] = get_args(ProbeTask)
Classifier = Literal["linear", "mlp", "end_to_end"]
BUDGET = "budget_"  # begins the part of a name that says the percentage, in full


class Count(NamedTuple):
    """One test utterance: `num_correct` of its `total` examples were right."""

    id: str
    speaker: str
    num_correct: int
    total: int


@dataclass(frozen=True)
class ProbeResult(Saved):
    """What a probe found.

    accuracy, low, high: share of test examples classified correctly and its 95% interval over utterances, 0 to 1.
        For `phone_sequence` it is 1 − phone error rate, below 0 where insertions abound.
    speakers_low, speakers_high: the interval over speakers, for claims about other speakers; None for fewer than two.
    majority: the accuracy of always naming the test set's most frequent class.
    train_examples, test_examples: frames, windows, utterances or phones, whichever the task counts.
    classifier: "end_to_end" where the features were trained with the labels, too.
    l2: the strength that was used; None where there is none.
    budget: percent of the training utterances whose labels were used.
    protocol: how it was measured, in one sentence; notes: what a reader has to know before comparing it.
    utterances: the test set, utterance by utterance.
    labels: the alignment that phones were read from. fingerprint: of corpus, labels, ids and the rest of the protocol,
        and subject: of features whose name does not say all, such as random weights; both are empty in results of
        older versions.
    """

    KIND: ClassVar[str] = "probe result"
    FOLDER: ClassVar[str] = "probes"
    REMEDY: ClassVar[str] = "probe again with this version"

    task: ProbeTask
    features: str
    accuracy: float
    low: float
    high: float
    majority: float
    classes: int
    train: str
    test: str
    train_utterances: int
    test_utterances: int
    train_examples: int
    test_examples: int
    iterations: int
    converged: bool
    corpus: str
    protocol: str
    classifier: Classifier = "linear"
    l2: float | None = None
    budget: float = 100.0
    seed: int = 0
    speakers_low: float | None = None
    speakers_high: float | None = None
    notes: tuple[str, ...] = ()
    utterances: tuple[Count, ...] = ()
    labels: str = "phones"
    fingerprint: str = ""
    subject: str = ""

    @property
    def error(self) -> float:
        """1 − accuracy: for `phone_sequence`, the phone error rate."""
        return 1 - self.accuracy

    @property
    def slug(self) -> str:
        """The features' name in the letters of a metric or a file: "CPC z+c ±8" is cpc_z_c_context8."""
        words = self.features.lower().replace("-", "").replace("±", "context ").replace("context ", "context")
        return re.sub(r"[^\w.]+", "_", words)

    @property
    def column(self) -> str:
        """The task with the classifier where that is not the linear one: phone, phone_mlp. Numbers of different
        columns are never compared."""
        return f"{self.task}_mlp" if self.classifier == "mlp" else self.task

    @property
    def split_slug(self) -> str:
        """The test split in the letters of a metric or a file."""
        return re.sub(r"[^\w.-]+", "_", Path(self.test).stem)

    @property
    def identity(self) -> Identity:
        """With few labels the kind is `budget`, and the share is a part of the name."""
        speakers = self.task.startswith("speaker")
        usual = "speaker_train" if speakers else "phone_train"
        folds = re.search(r"-\d+folds$", self.test)  # the name of such a test says what was trained on, too
        where = joined(
            self.split_slug,
            self.corpus,
            "" if folds or self.train == usual else f"from_{Path(self.train).stem}",
            "" if speakers or self.labels == "phones" else f"labels_{self.labels}",
            f"seed_{self.seed}" if self.seed else "",
            "" if self.budget == 100 else f"{BUDGET}{float(self.budget)!r}".removesuffix(".0"),
            self.fingerprint,
        )
        return Identity(
            "probe" if self.budget == 100 else "budget", self.column, where, joined(self.slug, self.subject)
        )

    def metrics(self) -> dict[str, float]:
        """The accuracy with its intervals, and the phone error rate where it is one."""
        values = {"accuracy": self.accuracy, "low": self.low, "high": self.high}
        if self.speakers_low is not None and self.speakers_high is not None:
            values |= {"speakers_low": self.speakers_low, "speakers_high": self.speakers_high}
        return values | ({"error_rate": self.error} if self.task == "phone_sequence" else {})

    @property
    def description(self) -> str:
        """Corpus, splits and protocol."""
        return f"{self.corpus}: {self.train} → {self.test}; {self.protocol}"

    @property
    def older_column(self) -> str:
        """The column's name in MLflow by older versions, of which a result without a fingerprint is."""
        return f"{self.column}/{self.split_slug}"

    @property
    def older_budget(self) -> str:
        """The name of the curve over budgets that it was a point of."""
        return f"budget/{self.older_column}/{self.slug.removeprefix('cpc_')}"

    def _plain(self) -> dict[str, Any]:
        return {"utterances": [list(count) for count in self.utterances]}

    @classmethod
    def _typed(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        return {"utterances": tuple(Count(*count) for count in values.get("utterances", ()))}

    def write(self, path: Path) -> None:
        """Write as JSON, atomically: first what it says, then one line an utterance."""
        values = self.to_dict()
        counts = ",\n  ".join(json.dumps(count, ensure_ascii=False) for count in values.pop("utterances"))
        head = json.dumps(values, indent=1, ensure_ascii=False).removesuffix("\n}")
        write_text(path, f'{head},\n "utterances": [\n  {counts}\n ]\n}}\n')


# --- Probe results as a table for a terminal.


def probe_table(results: Sequence[ProbeResult]) -> "Table":
    """One row a result: accuracy, its 95% intervals over utterances and speakers, and what it was measured on.

    The phone error rate is an error: lower is better.
    """
    from rich.table import Table

    first = results[0]
    title = f"{first.corpus}: {first.train} → {first.test}; accuracy % with its 95% interval"
    table = Table(title=title, title_justify="left")
    for name in ("task", "classifier", "features"):
        table.add_column(name)
    for name in ("%", "over utterances", "over speakers", "majority %", "classes", "L2", "labels %"):
        table.add_column(name, justify="right")
    for name in ("test examples", "utterances"):
        table.add_column(name, justify="right")
    for r in sorted(results, key=lambda result: result.column):
        numbers = (_value(r), _interval(r, r.low, r.high), _interval(r, r.speakers_low, r.speakers_high))
        majority = "–" if r.task == "phone_sequence" else f"{100 * r.majority:.1f}"
        chosen = (majority, str(r.classes), "–" if r.l2 is None else f"{r.l2:.2g}", f"{r.budget:g}")
        counts = (f"{r.test_examples:,}", str(r.test_utterances))
        table.add_row(task_name(r), r.classifier.replace("_", " "), r.features, *numbers, *chosen, *counts)
    return table


def task_name(result: ProbeResult) -> str:
    """The task in words."""
    return "phone error rate" if result.task == "phone_sequence" else result.task.replace("_", " ")


def _value(result: ProbeResult) -> str:
    return f"{100 * (result.error if result.task == 'phone_sequence' else result.accuracy):.1f}"


def _interval(result: ProbeResult, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "–"
    low, high = (1 - high, 1 - low) if result.task == "phone_sequence" else (low, high)
    return f"{100 * low:.1f} – {100 * high:.1f}"
