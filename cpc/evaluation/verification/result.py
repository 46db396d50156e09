"""The result of speaker verification: error rates, their intervals, and the conditions that give them their meaning."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from cpc.evaluation.saved import Identity, Saved, joined, slug
from cpc.evaluation.verification.score import Estimate
from cpc.evaluation.verification.trials import MOST


@dataclass(frozen=True)
class VerificationResult(Saved):
    """How well cosines of features tell whether two utterances are by one speaker.

    eer: the rate at which false alarms and misses are equally frequent, with its 95% interval over speakers, 0 to 1;
        0.5 is chance.
    min_dcf: prior of a target → minimum detection cost with its interval; 1 is what deciding without listening costs.
    train: the split whose mean was taken from all vectors; test: the split, or the file, that the trials are from.
    listed: whether the trials are those of a file; other_chapters, most, seed: how they were drawn where not.
    targets, non_targets, speakers, utterances: how many there are in the trials.
    protocol: how it was measured, in one sentence; notes: what a reader has to know before comparing it.
    fingerprint: of the trials and the audio, and subject: of features whose name does not say all, such as random
        weights; both are empty in results of older versions.
    """

    KIND: ClassVar[str] = "verification result"

    features: str
    eer: Estimate
    min_dcf: Mapping[str, Estimate]
    targets: int
    non_targets: int
    speakers: int
    utterances: int
    corpus: str
    train: str
    test: str
    listed: bool
    other_chapters: bool
    most: int
    seed: int
    protocol: str
    notes: tuple[str, ...] = ()
    fingerprint: str = ""
    subject: str = ""

    @property
    def slug(self) -> str:
        """The features' name in the letters of a metric or a file: "CPC z" is cpc_z, "log-mel" is logmel."""
        return slug(self.features)

    @property
    def task(self) -> str:
        """eer, and whatever differs from the usual: numbers of different lists of trials never share a name."""
        parts = ["eer"]
        parts += ["listed"] if self.listed else []
        parts += ["other_chapters"] if self.other_chapters else []
        parts += [f"most_{self.most}"] if self.most != MOST else []
        parts += [f"seed_{self.seed}"] if self.seed else []
        return "-".join(parts)

    @property
    def identity(self) -> Identity:
        """Of the split, or of the list of trials."""
        train = "" if self.train == "speaker_train" else f"from_{Path(self.train).stem}"
        where = joined(Path(self.test).stem, self.corpus, train, self.fingerprint)
        return Identity("verification", self.task, where, joined(self.slug, self.subject))

    def _plain(self) -> dict[str, Any]:
        return {"eer": list(self.eer), "min_dcf": {prior: list(cost) for prior, cost in self.min_dcf.items()}}

    @classmethod
    def _typed(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        costs = {prior: Estimate(*cost) for prior, cost in values["min_dcf"].items()}
        return {"eer": Estimate(*values["eer"]), "min_dcf": costs}
