"""The result of one probe: a number, its interval, and the conditions without which it means nothing."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from cpc.config import InputError
from cpc.files import write_json

Task = Literal["phone", "speaker_frame", "speaker_utterance"]
TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True)
class ProbeResult:
    """What a linear probe found.

    accuracy, low, high: share of test examples classified correctly and its 95% interval over utterances, 0 to 1.
    majority: the accuracy of always naming the test set's most frequent class.
    train_examples, test_examples: frames, or utterances for `speaker_utterance`.
    protocol: how it was measured, in one sentence; notes: what a reader has to know before comparing it.
    """

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
    notes: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """The features' name in the letters of a metric or a file: "CPC z" is cpc_z, "log-mel" is logmel."""
        return self.features.lower().replace("-", "").replace(" ", "_")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self) | {"notes": list(self.notes)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ProbeResult":
        """The inverse of `to_dict`. Raises InputError where fields are missing or unknown."""
        known, given = {field.name for field in fields(cls)}, set(values)
        if wrong := sorted((known - {"notes"} - given) | (given - known)):
            raise InputError(f"probe result: {', '.join(wrong)} missing or unknown; probe again with this version")
        return cls(**{**values, "notes": tuple(values.get("notes", ()))})

    def write(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, self.to_dict())

    @classmethod
    def read(cls, path: Path) -> "ProbeResult":
        """Read what `write` wrote."""
        return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
