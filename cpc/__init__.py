"""Contrastive Predictive Coding on audio: speech representations without labels, trained, tracked, probed and compared.

The public names. A module loads when one of its names is first used, so that `import cpc` and `cpc --help` are quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cpc.version import __version__

if TYPE_CHECKING:
    from cpc.audio.waveform import read_audio
    from cpc.config import InputError
    from cpc.data.corpus import Corpus
    from cpc.evaluation.embed.embed import embed
    from cpc.losses.cpc import CPCLoss, Losses
    from cpc.losses.functional import info_nce, nce, nt_xent, pair_margin, sup_con, triplet, triplet_of
    from cpc.losses.negatives import All, Hardest, SemiHard, Uniform, Within
    from cpc.losses.objectives import NCE, InfoNCE, PairMargin, Triplet
    from cpc.losses.scores import Cosine, Dot, NegativeDistance
    from cpc.models.checkpoint import load
    from cpc.models.cpc import CPC, Latents, ModelConfig, build
    from cpc.models.streaming import Stream, stream
    from cpc.training.recipe import Recipe, load_config
    from cpc.training.run import Run, resume, train

_HOMES = {
    "cpc.audio.waveform": ("read_audio",),
    "cpc.config": ("InputError",),
    "cpc.data.corpus": ("Corpus",),
    "cpc.evaluation.embed.embed": ("embed",),
    "cpc.losses.cpc": ("CPCLoss", "Losses"),
    "cpc.losses.functional": ("info_nce", "nce", "nt_xent", "pair_margin", "sup_con", "triplet", "triplet_of"),
    "cpc.losses.negatives": ("All", "Hardest", "SemiHard", "Uniform", "Within"),
    "cpc.losses.objectives": ("NCE", "InfoNCE", "PairMargin", "Triplet"),
    "cpc.losses.scores": ("Cosine", "Dot", "NegativeDistance"),
    "cpc.models.checkpoint": ("load",),
    "cpc.models.cpc": ("CPC", "Latents", "ModelConfig", "build"),
    "cpc.models.streaming": ("Stream", "stream"),
    "cpc.training.recipe": ("Recipe", "load_config"),
    "cpc.training.run": ("Run", "resume", "train"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "CPC",
    "NCE",
    "All",
    "CPCLoss",
    "Corpus",
    "Cosine",
    "Dot",
    "Hardest",
    "InfoNCE",
    "InputError",
    "Latents",
    "Losses",
    "ModelConfig",
    "NegativeDistance",
    "PairMargin",
    "Recipe",
    "Run",
    "SemiHard",
    "Stream",
    "Triplet",
    "Uniform",
    "Within",
    "__version__",
    "build",
    "embed",
    "info_nce",
    "load",
    "load_config",
    "nce",
    "nt_xent",
    "pair_margin",
    "read_audio",
    "resume",
    "stream",
    "sup_con",
    "train",
    "triplet",
    "triplet_of",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'cpc' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
