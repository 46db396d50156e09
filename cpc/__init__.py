"""Contrastive Predictive Coding on audio: speech representations without labels, trained, tracked, probed and compared.

The public names. A module loads when one of its names is first used, so that `import cpc` and `cpc --help` are quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cpc.version import __version__

if TYPE_CHECKING:
    from cpc.audio import read_audio
    from cpc.config import InputError
    from cpc.contrast import All, Cosine, Dot, InfoNCE, Uniform
    from cpc.corpus import Corpus
    from cpc.evaluation.embed import embed
    from cpc.model import CPC, Latents, ModelConfig, build, load
    from cpc.objective import CPCLoss, Losses
    from cpc.training.recipe import Recipe, load_config
    from cpc.training.run import Run, resume, train

_HOMES = {
    "cpc.audio": ("read_audio",),
    "cpc.config": ("InputError",),
    "cpc.contrast": ("All", "Cosine", "Dot", "InfoNCE", "Uniform"),
    "cpc.corpus": ("Corpus",),
    "cpc.evaluation.embed": ("embed",),
    "cpc.model": ("CPC", "Latents", "ModelConfig", "build", "load"),
    "cpc.objective": ("CPCLoss", "Losses"),
    "cpc.training.recipe": ("Recipe", "load_config"),
    "cpc.training.run": ("Run", "resume", "train"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "CPC",
    "All",
    "CPCLoss",
    "Corpus",
    "Cosine",
    "Dot",
    "InfoNCE",
    "InputError",
    "Latents",
    "Losses",
    "ModelConfig",
    "Recipe",
    "Run",
    "Uniform",
    "__version__",
    "build",
    "embed",
    "load",
    "load_config",
    "read_audio",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'cpc' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
