"""The result of one probe: a number, its intervals, the conditions without which it means nothing, and every
utterance's share in it, so that two results on the same test set can be compared pair by pair.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, get_args

from cpc.evaluation.saved import Identity, Saved, joined
from cpc.files import write_text

Task = Literal["phone", "phone_sequence", "speaker_frame", "speaker_last", "speaker_utterance"]
TASKS: tuple[Task, ...] = get_args(Task)
Classifier = Literal["linear", "mlp", "end_to_end"]
BUDGET = "budget_"  # begins the part of a name that says the percentage, in full


class Count(NamedTuple):
    """One test utterance: `hits` of its `total` examples were right."""

    id: str
    speaker: str
    hits: int
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
    REMEDY: ClassVar[str] = "probe again with this version"

    task: Task
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
