"""When to stop training what has no minimum to reach: by a held-out score, with smaller steps first."""

import copy
import math
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from cpc.device import precision
from cpc.evaluation.probes.dataset import Examples
from cpc.seeding import derive, numpy_generator

SMALLER = 0.3  # factor of the learning rate after `patience` validations without a better score


class EarlyStopping:
    """Keeps the weights of the best validation.

    After `patience` validations without a better score it goes back to them and takes smaller steps; when `reductions`
    times in a row that has brought nothing better, it is over.
    """

    def __init__(
        self, network: nn.Module, optimiser: torch.optim.Optimizer, patience: int = 5, reductions: int = 3
    ) -> None:
        self.network, self.optimiser, self.patience, self.reductions = network, optimiser, patience, reductions
        self.best, self.latest, self.over = -math.inf, -math.inf, False
        self._kept = copy.deepcopy(network.state_dict())
        self._waited = self._reduced = 0

    def step(self, score: float) -> None:
        """Take note of a held-out score, higher is better."""
        self.latest = score
        if score > self.best:
            self.best, self._waited, self._reduced = score, 0, 0
            self._kept = copy.deepcopy(self.network.state_dict())
            return
        self._waited += 1
        if self._waited == self.patience:
            self._waited, self._reduced = 0, self._reduced + 1
            self.over = self._reduced >= self.reductions
            self.restore()
            for group in self.optimiser.param_groups:
                group["lr"] *= SMALLER

    def restore(self) -> None:
        """Back to the best weights."""
        self.network.load_state_dict(self._kept)


# --- A classifier with one hidden layer: what is in the features, but not linearly (van den Oord 2018, section 3.1).


BATCH = 512
LR = 1e-3
ROUND = (50, 500)  # steps between two validations on the held-out part: an epoch, but at least and at most so many
MOST_ROUNDS = 200
_HELD = 50_000  # held-out examples of a validation
_MEASURED = 200_000  # examples for mean and deviation


@dataclass(frozen=True)
class HiddenLayerClassifier:
    """A trained network, the steps it took, its held-out accuracy, and whether it stopped by itself."""

    network: nn.Sequential
    mean: Float[Tensor, " dim"]
    deviation: Float[Tensor, " dim"]
    iterations: int
    held_accuracy: float
    converged: bool

    @torch.inference_mode()
    def predict(self, x: Float[Tensor, "frame dim"]) -> Int64[Tensor, " frame"]:
        """The most probable class of each frame, on the CPU."""
        with _autocast(self.mean.device):
            blocks = [self.network(self.standard(block)).argmax(1).cpu() for block in torch.split(x, 8192)]
        return torch.cat(blocks)

    def standard(self, x: Float[Tensor, "frame dim"]) -> Float[Tensor, "frame dim"]:
        """Mean 0, deviation 1 over the training examples."""
        return (x.to(self.mean.device) - self.mean) / self.deviation


def fit_mlp(
    train: Examples, held: Examples, classes: int, *, hidden: int = 1024, seed: int = 0, device: str = "cpu"
) -> HiddenLayerClassifier:
    """Train on `train`, stop by `held`; labels are 0 … classes − 1. The same seed gives the same network."""
    evaluated = held.draw(_HELD, numpy_generator(seed, "mlp", "held"))
    held_x, held_y = evaluated.x(), torch.from_numpy(evaluated.y)
    current = _untrained(train, classes, hidden, seed, device)
    optimiser = torch.optim.Adam(current.network.parameters(), LR)
    steps = min(max(-(-len(train) // BATCH), ROUND[0]), ROUND[1])
    stopping, rounds = EarlyStopping(current.network, optimiser), 0
    while rounds < MOST_ROUNDS and not stopping.over:
        _round(current, optimiser, train, range(rounds * steps, (rounds + 1) * steps), seed)
        rounds += 1
        stopping.step(float((current.predict(held_x) == held_y).double().mean()))
    stopping.restore()
    return replace(current, iterations=rounds * steps, held_accuracy=stopping.best, converged=stopping.over)


def _untrained(train: Examples, classes: int, hidden: int, seed: int, device: str) -> HiddenLayerClassifier:
    x = train.draw(_MEASURED, numpy_generator(seed, "mlp", "moments")).x()
    mean, deviation = x.mean(0), x.std(0, unbiased=False)
    deviation = torch.where(deviation <= 1e-6 * (mean.abs() + 1e-6), torch.inf, deviation)  # a constant says nothing
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "mlp"))
        network = nn.Sequential(nn.Linear(train.dim, hidden), nn.ReLU(), nn.Linear(hidden, classes))
    return HiddenLayerClassifier(network.to(device), mean.to(device), deviation.to(device), 0, 0.0, False)


def _round(
    classifier: HiddenLayerClassifier, optimiser: torch.optim.Optimizer, train: Examples, steps: range, seed: int
) -> None:
    device = classifier.mean.device
    for step in steps:
        chosen = _batch(len(train), step, seed)
        x, y = classifier.standard(train.x(chosen)), torch.from_numpy(train.y[chosen]).to(device)
        with _autocast(device):
            logits = classifier.network(x)
        loss = nn.functional.cross_entropy(logits.float(), y)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()


def _batch(examples: int, step: int, seed: int) -> Int64[np.ndarray, " batch"]:
    """Examples of a step, drawn with replacement: a pure function of the seed and the step."""
    return numpy_generator(seed, "mlp", "batch", step).integers(0, examples, BATCH)


def _autocast(device: torch.device) -> AbstractContextManager[None]:
    """bfloat16 products where the hardware has them."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision("auto", device) == "bf16")
