"""The contrastive core: score × candidates × objective. It knows nothing of audio."""

from cpc.contrast.compose import Contrasted, contrast
from cpc.contrast.negatives import All, Candidates, Grid, Hardest, Negatives, SemiHard, Uniform, Within
from cpc.contrast.objectives import NCE, InfoNCE, Objective, PairMargin, Triplet
from cpc.contrast.scores import Cosine, Dot, NegativeDistance, Score

__all__ = [
    "NCE",
    "All",
    "Candidates",
    "Contrasted",
    "Cosine",
    "Dot",
    "Grid",
    "Hardest",
    "InfoNCE",
    "NegativeDistance",
    "Negatives",
    "Objective",
    "PairMargin",
    "Score",
    "SemiHard",
    "Triplet",
    "Uniform",
    "Within",
    "contrast",
]
