"""Speaker verification: are two utterances by one speaker? Judged by cosines of frozen features; nothing is trained."""

from cpc.evaluation.verification.score import VerificationResult, detection_errors, equal_error_rate, min_cost
from cpc.evaluation.verification.trials import Trials, draw_trials, read_trials, write_trials

__all__ = [
    "Trials",
    "VerificationResult",
    "detection_errors",
    "draw_trials",
    "equal_error_rate",
    "min_cost",
    "read_trials",
    "write_trials",
]
