"""Whether what is learnt is alive: the spread of z and c at every validation, and a warning where it collapses."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from cpc.data.sampler import to_float
from cpc.losses.cpc import CPCLoss
from cpc.losses.objectives import InfoNCE
from cpc.models import collapse as spread
from cpc.training.job import Trainer

PATIENCE = 50  # updates, or the warm-up if that is longer, before a loss at chance is worth a word


class CollapseMonitor:
    """Looks at a job now and then, and speaks once about each thing that is wrong until it is over."""

    def __init__(self, job: Trainer, say: Callable[[str], None], tag: Callable[[Mapping[str, str]], None]) -> None:
        self._job, self._say, self._tag = job, say, tag
        self._known: dict[str, str] = {}

    def examine(self, latest: Mapping[str, float]) -> dict[str, float]:
        """The spread of z and c as metrics; what is wrong is said and tagged. `latest` has the newest losses."""
        values, found = measure(self._job)
        past_warmup = self._job.step - self._job.recipe.optim.warmup_steps
        if past_warmup <= 0:
            found = {}  # nothing has been learnt that could be lost
        if self._job.step >= max(PATIENCE, self._job.recipe.optim.warmup_steps) and (line := self._at_chance(latest)):
            found["loss"] = line
        self._report(found)
        return values

    def _at_chance(self, latest: Mapping[str, float]) -> str | None:
        criterion = self._job.criterion
        if not isinstance(criterion, CPCLoss) or not isinstance(criterion.objective, InfoNCE):
            return None  # other objectives have no known loss at chance
        return spread.chance(latest.get("train/loss", -math.inf), latest.get("train/ceiling", math.inf))

    def _report(self, found: dict[str, str]) -> None:
        step = self._job.step
        for line in (line for name, line in found.items() if name not in self._known):
            self._say(f"warning, step {step}: {line}")
        if found.keys() != self._known.keys():
            self._tag({"collapse": f"step {step}: {'; '.join(found.values()) or 'over'}"})
        self._known = found


@torch.no_grad()
def measure(job: Trainer) -> tuple[dict[str, float], dict[str, str]]:
    """The spread of one batch of validation windows (of training windows where nothing is held out), always the same.

    One forward pass without randomness, so training goes on exactly as if it had not been looked at. Gives metrics,
    and for each layer that has collapsed what is wrong with it.
    """
    waveform = to_float((job.valid or job.windows).read(0).to(job.device))
    job.train(False)
    with torch.autocast(job.device.type, dtype=torch.bfloat16, enabled=job.bf16):
        z, c = job.model(waveform)
        values = {"spread/alignment": _alignment(job.criterion, z, c)} if isinstance(job.criterion, CPCLoss) else {}
    job.train(True)
    found: dict[str, str] = {}
    layers: dict[spread.LayerName, torch.Tensor] = {"z": z, "c": c}
    for layer, latent in layers.items():
        vectors = latent.float().flatten(0, 1).cpu()
        spreads = spread.measure(vectors)
        values |= spread.metrics(layer, spreads)
        if line := spread.collapse(layer, spreads, vectors.shape[1]):
            found[layer] = line
    return values, found


def _alignment(criterion: CPCLoss, z: Tensor, c: Tensor) -> float:
    """How near predictions are to what they predict, the mean over the K steps."""
    steps, anchors = criterion.prediction_steps, z.shape[1] - criterion.prediction_steps
    predictions = criterion.heads(c[:, :anchors])
    pairs = [
        spread.alignment(predictions[k].flatten(0, 1), z[:, k + 1 : k + 1 + anchors].flatten(0, 1))
        for k in range(steps)
    ]
    return sum(pairs) / steps
