"""A recipe small enough to be trained inside a test."""

from pathlib import Path
from typing import Any

import cpc
from cpc.training.recipe import Recipe

SHORT = {"precision": "fp32", "max_steps": 6, "log_every": 2, "validate_every": 3, "checkpoint_every": 3}


def tiny(corpus: Path, *overrides: str, window_size: int = 4000, batch_size: int = 4, **sections: Any) -> Recipe:
    """Sixteen channels on quarter-second windows; each of `sections` takes the place of the whole section."""
    tree = {
        "data": {"corpus": str(corpus), "train": "pretrain", "valid": "valid"},
        "model": {"encoder": {"channels": 16, "norm": "channel"}, "context": {"hidden": 16}},
        "loss": {"prediction_steps": 4, "negatives": {"num_negatives": 16}},
        "training": {"precision": "fp32"},
    }
    tree |= sections
    tree["data"] = {"window_size": window_size, "batch_size": batch_size} | tree["data"]
    return cpc.load_config(tree, overrides)
