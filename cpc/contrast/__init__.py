"""The contrastive core: score × candidates × objective. It knows nothing of audio."""

from cpc.contrast.compose import Contrasted, contrast
from cpc.contrast.negatives import All, Candidates, Grid, Negatives, Uniform
from cpc.contrast.objectives import InfoNCE, Objective
from cpc.contrast.scores import Cosine, Dot, Score

__all__ = [
    "All",
    "Candidates",
    "Contrasted",
    "Cosine",
    "Dot",
    "Grid",
    "InfoNCE",
    "Negatives",
    "Objective",
    "Score",
    "Uniform",
    "contrast",
]
