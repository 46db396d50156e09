"""The result of one probe: a number, its intervals, the conditions without which it means nothing, and every
utterance's share in it, so that two results on the same test set can be compared pair by pair.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, get_args

from cpc.evaluation.saved import Saved
from cpc.files import write_text

Task = Literal["phone", "phone_sequence", "speaker_frame", "speaker_last", "speaker_utterance"]
TASKS: tuple[Task, ...] = get_args(Task)
Classifier = Literal["linear", "mlp", "end_to_end"]


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
    def file_name(self) -> str:
        """A name of its own for each protocol: phone-phone_test-cpc_c-budget10-seed1.json."""
        budget = "" if self.budget == 100 else f"-budget{self.budget:g}"
        seed = f"-seed{self.seed}" if self.seed else ""
        return f"{self.column}-{self.split_slug}-{self.slug}{budget}{seed}.json"

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
