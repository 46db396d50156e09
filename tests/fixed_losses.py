"""Write the losses of the first steps of several recipes at a fixed seed, to the last bit: no refactor changes them.

    python -m tests.fixed_losses CORPUS [STEPS]

Run it before and after, on the same machine, and compare. The corpus is any packed one with speakers (`make demo`
makes data/demo).
"""

import sys
from pathlib import Path

from cpc.training.recipe import load_config
from cpc.training.trainer import Trainer

RECIPES = Path(__file__).parents[1] / "recipes"
NAMES = (
    "demo/cpc",
    "speech/cpc",
    "speech/classic",
    "speech/riviere",
    "speech/simclr",
    "speech/moco",
    "speech/supcon",
    "speech/augmented",
)
SMALL = ("model.encoder.channels=16", "model.context.hidden=16", "training.precision=fp32", "training.device=cpu")


def losses(name: str, corpus: str, steps: int) -> list[str]:
    """The losses of the first steps, in hexadecimal."""
    data = (f"data.corpus={corpus}", "data.train=null", "data.valid=null", "data.val_fraction=0", "data.batch_size=4")
    trainer = Trainer.start(load_config(RECIPES / f"{name}.yaml", [*data, *SMALL]))
    found = (trainer.update(n, wave)[0].loss for n, wave in trainer.windows.batches(0, steps, trainer.device))
    return [float(loss).hex() for loss in found]


if __name__ == "__main__":
    for recipe in NAMES:
        count = int(sys.argv[2]) if len(sys.argv) > 2 else 20
        sys.stdout.write(" ".join([recipe, *losses(recipe, sys.argv[1], count)]) + "\n")
