"""When to stop training what has no minimum to reach: by a held-out score, with smaller steps first."""

import copy
import math

import torch
from torch import nn

SMALLER = 0.3  # factor of the learning rate after `patience` looks without a better score


class EarlyStopping:
    """Keeps the weights of the best look. After `patience` looks without a better score it goes back to them and takes
    smaller steps; when `reductions` times in a row that has brought nothing better, it is over.
    """

    def __init__(
        self, network: nn.Module, optimiser: torch.optim.Optimizer, patience: int = 5, reductions: int = 3
    ) -> None:
        self.network, self.optimiser, self.patience, self.reductions = network, optimiser, patience, reductions
        self.best, self.latest, self.over = -math.inf, -math.inf, False
        self._kept = copy.deepcopy(network.state_dict())
        self._waited = self._reduced = 0

    def look(self, score: float) -> None:
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
