"""The result of an ABX task: an error, its interval, and the conditions without which it means nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cpc.evaluation.saved import Identity, Saved, joined, letters, slug


@dataclass(frozen=True)
class ABXResult(Saved):
    """How often features put X nearer to the wrong phone.

    error, low, high: share of triplets, averaged as `score` says, and its 95% interval over `resampled`, 0 to 1; 0.5
        is chance.
    unit: triphone, phone, or items where they were read from a file.
    items, speakers, cells, triplets: how many were compared; phone_pairs: how many ordered pairs there are.
    pair_errors: A → B → error, for each ordered pair of phones.
    protocol: how it was measured, in one sentence; notes: what a reader has to know before comparing it.
    labels: the alignment that the items are of. fingerprint: of the items and the audio, and subject: of features whose
        name does not say all, such as random weights; both are empty in results of older versions.
    """

    KIND: ClassVar[str] = "ABX result"

    features: str
    error: float
    low: float
    high: float
    resampled: str
    speaker: str
    context: str
    unit: str
    distance: str
    slicing: str
    most_items: int | None
    most_speakers: int | None
    seed: int
    corpus: str
    split: str
    items: int
    speakers: int
    cells: int
    triplets: int
    phone_pairs: int
    pair_errors: Mapping[str, Mapping[str, float]]
    protocol: str
    notes: tuple[str, ...] = ()
    labels: str = "phones"
    fingerprint: str = ""
    subject: str = ""

    @property
    def slug(self) -> str:
        """The features' name in the letters of a metric or a file: "CPC z" is cpc_z, "log-mel" is logmel."""
        return slug(self.features)

    @property
    def task(self) -> str:
        """SPEAKER-CONTEXT, and whatever differs from the usual: numbers of different tasks never share a name."""
        usual = {"distance": "angular", "slicing": "centre", "unit": usual_unit(self.context), "seed": 0}
        usual |= {"most_items": 10} | ({"most_speakers": 5} if self.speaker == "across" else {})
        other = [f"{name}_{getattr(self, name)}" for name, value in usual.items() if getattr(self, name) != value]
        return "-".join([self.speaker, self.context, *(letters(word) for word in other)])

    @property
    def pairs(self) -> dict[tuple[str, str], float]:
        """The error of each ordered pair of phones (A and X, B)."""
        return {(a, b): error for a, row in self.pair_errors.items() for b, error in row.items()}

    @property
    def identity(self) -> Identity:
        """Of the split, or of the whole corpus."""
        labels = "" if self.labels == "phones" else f"labels_{self.labels}"
        where = joined(Path(self.split).stem, self.corpus, labels, self.fingerprint)
        return Identity("abx", self.task, where, joined(self.slug, self.subject))


def usual_unit(context: str) -> str:
    """Triphones are compared within a context; where contexts are ignored, phones alone."""
    return "triphone" if context == "within" else "phone"
