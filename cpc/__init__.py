"""Contrastive Predictive Coding on audio: speech representations without labels, trained, tracked, probed and compared.

The public names. A module loads when one of its names is first used, so that `import cpc` and `cpc --help` are quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cpc.version import __version__

if TYPE_CHECKING:
    from cpc.config import InputError
    from cpc.contrast import (
        NCE,
        All,
        Cosine,
        Dot,
        Hardest,
        InfoNCE,
        NegativeDistance,
        PairMargin,
        SemiHard,
        Triplet,
        Uniform,
        Within,
    )
    from cpc.contrast.functional import info_nce, nce, nt_xent, pair_margin, sup_con, triplet, triplet_of
    from cpc.corpus import Corpus
    from cpc.evaluation.embedding.embed import embed
    from cpc.model import CPC, Latents, ModelConfig, build, load
    from cpc.objective import CPCLoss, Losses
    from cpc.streaming import Stream, stream
    from cpc.training.recipe import Recipe, load_config
    from cpc.training.run import Run, resume, train
    from cpc.waveform import read_audio

_HOMES = {
    "cpc.config": ("InputError",),
    "cpc.contrast": (
        "NCE",
        "All",
        "Cosine",
        "Dot",
        "Hardest",
        "InfoNCE",
        "NegativeDistance",
        "PairMargin",
        "SemiHard",
        "Triplet",
        "Uniform",
        "Within",
    ),
    "cpc.contrast.functional": ("info_nce", "nce", "nt_xent", "pair_margin", "sup_con", "triplet", "triplet_of"),
    "cpc.corpus": ("Corpus",),
    "cpc.evaluation.embedding.embed": ("embed",),
    "cpc.model": ("CPC", "Latents", "ModelConfig", "build", "load"),
    "cpc.objective": ("CPCLoss", "Losses"),
    "cpc.streaming": ("Stream", "stream"),
    "cpc.training.recipe": ("Recipe", "load_config"),
    "cpc.training.run": ("Run", "resume", "train"),
    "cpc.waveform": ("read_audio",),
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
