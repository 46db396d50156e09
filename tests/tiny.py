"""A recipe small enough to be trained inside a test."""

from pathlib import Path
from typing import Any

import cpc
from cpc.training.recipe import Recipe

SHORT = {"precision": "fp32", "steps": 6, "log_every": 2, "validate_every": 3, "checkpoint_every": 3}


def tiny(corpus: Path, *overrides: str, **sections: Any) -> Recipe:
    """Sixteen channels on quarter-second windows; each of `sections` takes the place of the whole section."""
    tree = {
        "data": {"corpus": str(corpus), "train": "pretrain", "valid": "valid"},
        "model": {"encoder": {"channels": 16, "norm": "channel"}, "context": {"hidden": 16}},
        "loss": {"steps": 4, "negatives": {"count": 16}},
        "windows": {"samples": 4000, "batch": 4},
        "training": {"precision": "fp32"},
    }
    return cpc.load_config(tree | sections, overrides)
