"""How labels are read off features: the classifier, what it sees, how many labels it gets, and a name for all that."""

from dataclasses import dataclass, field
from typing import Literal

from cpc.config import InputError
from cpc.evaluation.classifier import Fitting
from cpc.evaluation.result import Task

GRID = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
REPLICATES = 2000  # of the bootstrap
WINDOW = 20480  # samples of a `speaker_last` window: 1.28 s at 16 kHz, as in CPC_audio


@dataclass(frozen=True)
class Protocol:
    """The choices of a probe.

    classifier: `linear`, softmax regression; `mlp`, one hidden layer of `hidden` ReLU units.
    context: frames on either side that are put beside each frame (in the tasks that judge single frames).
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

    def sentence(self, task: Task, labels: str, choice: str) -> str:
        """The protocol in words; `choice` says what training chose on its held-out part."""
        beside = f" with {self.context} frames on either side" if self.context else ""
        parts = [f"{self._kind(task)} on {unit(task, labels)}{beside}; standardised by training statistics", choice]
        if self.budget < 100:
            parts.append(f"{self.budget:g}% of the training utterances labelled")
        return "; ".join([*parts, f"seed {self.seed}", f"{REPLICATES} bootstrap replicates"])

    def _kind(self, task: Task) -> str:
        if task == "phone_sequence":
            return "linear layer over 80 ms, every 40 ms, trained with CTC by Adam, greedy decoding,"
        if self.classifier == "mlp":
            return f"one hidden layer of {self.hidden} ReLU units and softmax, trained by Adam,"
        return f"linear softmax classifier, trained by L-BFGS to a relative change of {self.fitting.tolerance:g},"


def unit(task: Task, labels: str) -> str:
    """What one example of a task is, in words."""
    return {
        "phone": f"single frames, labelled by `{labels}` at their centres in time",
        "phone_sequence": f"the frames of each utterance, against its phones in `{labels}` without silences",
        "speaker_frame": "every frame on its own",
        "speaker_last": f"the last frame of each window of {WINDOW} samples, computed from the window alone",
        "speaker_utterance": "the mean over each utterance",
    }[task]
