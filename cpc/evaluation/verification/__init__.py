"""Speaker verification: are two utterances by one speaker? Judged by cosines of frozen features; nothing is trained."""

from cpc.evaluation.verification.listing import read_trials, write_trials
from cpc.evaluation.verification.result import VerificationResult
from cpc.evaluation.verification.score import detection_errors, equal_error_rate, min_cost
from cpc.evaluation.verification.trials import Trials, draw_trials

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
