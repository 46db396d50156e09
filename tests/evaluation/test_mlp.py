"""A hidden layer reads what a line cannot; it stops by what was held out, and repeats with its seed."""

import numpy as np
import pytest
import torch

from cpc.evaluation.features import FrameTable
from cpc.evaluation.probes import mlp
from cpc.evaluation.probes.dataset import Examples
from cpc.evaluation.probes.linear import Fitting, fit
from cpc.evaluation.probes.mlp import fit_mlp


def corners(count: int, seed: int) -> Examples:
    """Exclusive or: the class is whether two signs differ, which no line separates."""
    x = np.random.default_rng(seed).normal(size=(count, 2)).astype(np.float32) * 50 + 7
    y = ((x[:, 0] > 7) != (x[:, 1] > 7)).astype(np.int64)
    return Examples(FrameTable(torch.from_numpy(x), np.arange(count + 1)), np.arange(count), y, np.arange(count))


def test_exclusive_or_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "ROUND", (25, 25))
    train, held, test = (corners(count, seed) for seed, count in enumerate((2000, 300, 500)))
    found = fit_mlp(train, held, 2, hidden=16)
    assert (found.predict(test.x()) == torch.from_numpy(test.y)).double().mean() > 0.95
    assert found.converged
    assert found.held_accuracy > 0.95
    linear = fit(train.x(), torch.from_numpy(train.y), 2, Fitting())
    assert (linear.predict(test.x()) == torch.from_numpy(test.y)).double().mean() < 0.75


def test_it_repeats_with_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "MOST_ROUNDS", 2)
    train, held = corners(400, 0), corners(100, 1)
    one, same, other = (fit_mlp(train, held, 2, hidden=8, seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one.network.parameters(), same.network.parameters(), strict=True))
    assert not torch.equal(one.network[0].weight, other.network[0].weight)
    assert not one.converged  # two rounds are no convergence, and it says so


def test_labels_without_information_stop_it_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "ROUND", (10, 10))
    train, held = corners(1000, 0), corners(1000, 1)
    for part, seed in ((train, 2), (held, 3)):
        part.y[:] = np.random.default_rng(seed).integers(0, 2, 1000)
    found = fit_mlp(train, held, 2, hidden=8)
    assert found.converged
    assert found.held_accuracy < 0.6
