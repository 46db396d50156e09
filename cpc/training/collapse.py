"""Whether what is learnt is alive: the spread of z and c at every validation, and a warning where it collapses."""

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cpc.losses.cpc import CPCLoss
from cpc.losses.objectives import InfoNCE
from cpc.models import collapse as spread
from cpc.models.cpc import CPC, Latents

PATIENCE = 50  # updates, or the warm-up if that is longer, before a loss at chance is worth a word


class CollapseMonitor:
    """Looks at a model now and then, and speaks once about each thing that is wrong until it is over.

    Args:
        warmup_steps: those of the learning rate, before which nothing has been learnt that could be lost.
        say: takes a line for the person who watches.
        tag: takes tags for the run.
    """

    def __init__(self, warmup_steps: int, say: Callable[[str], None], tag: Callable[[Mapping[str, str]], None]) -> None:
        self._warmup, self._say, self._tag = warmup_steps, say, tag
        self._known: dict[str, str] = {}

    def examine(
        self,
        step: int,
        model: CPC,
        criterion: nn.Module,
        waveform: Float[Tensor, "window sample"],
        latest: Mapping[str, float],
        bf16: bool = False,
    ) -> dict[str, float]:
        """How z and c of some windows spread, as metrics; what is wrong is said and tagged.

        `latest` has the newest losses.
        """
        values, found = measure(model, criterion, waveform, bf16)
        if step <= self._warmup:
            found = {}
        if step >= max(PATIENCE, self._warmup) and (line := _at_chance(criterion, latest)):
            found["loss"] = line
        for line in (line for name, line in found.items() if name not in self._known):
            self._say(f"warning, step {step}: {line}")
        if found.keys() != self._known.keys():
            self._tag({"collapse": f"step {step}: {'; '.join(found.values()) or 'over'}"})
        self._known = found
        return values


def _at_chance(criterion: nn.Module, latest: Mapping[str, float]) -> str | None:
    if not isinstance(criterion, CPCLoss) or not isinstance(criterion.objective, InfoNCE):
        return None  # other objectives have no known loss at chance
    return spread.chance(latest.get("train/loss", -math.inf), latest.get("train/ceiling", math.inf))


@torch.no_grad()
def measure(
    model: CPC, criterion: nn.Module, waveform: Float[Tensor, "window sample"], bf16: bool = False
) -> tuple[dict[str, float], dict[str, str]]:
    """How z and c of a batch of windows spread.

    One forward pass without randomness, so training goes on exactly as if it had not been looked at. Gives metrics,
    and for each layer that has collapsed what is wrong with it.
    """
    training = model.training, criterion.training
    for module in (model, criterion):
        module.eval()
    with torch.autocast(waveform.device.type, dtype=torch.bfloat16, enabled=bf16):
        latents = model(waveform)
        values = {"spread/alignment": _alignment(criterion, latents)} if isinstance(criterion, CPCLoss) else {}
    model.train(training[0])
    criterion.train(training[1])
    found: dict[str, str] = {}
    layers: dict[spread.LayerName, torch.Tensor] = {"z": latents.z, "c": latents.c}
    for layer, latent in layers.items():
        vectors = latent.float().flatten(0, 1).cpu()
        spreads = spread.measure(vectors)
        values |= spread.metrics(layer, spreads)
        if line := spread.collapse(layer, spreads, vectors.shape[1]):
            found[layer] = line
    return values, found


def _alignment(criterion: CPCLoss, latents: Latents) -> float:
    """How near predictions are to what they predict, the mean over the K steps."""
    z, steps, anchors = latents.z, criterion.prediction_steps, latents.z.shape[1] - criterion.prediction_steps
    predictions = criterion.predict(latents)
    pairs = [
        spread.alignment(predictions[k].flatten(0, 1), z[:, k + 1 : k + 1 + anchors].flatten(0, 1))
        for k in range(steps)
    ]
    return sum(pairs) / steps
