"""The best weights are kept, steps become smaller, and training ends."""

import torch
from torch import nn

from cpc.evaluation.probes.mlp import SMALLER, EarlyStopping


def test_it_goes_back_to_the_best_and_ends() -> None:
    network = nn.Linear(1, 1, bias=False)
    optimiser = torch.optim.SGD(network.parameters(), 1.0)
    stopping = EarlyStopping(network, optimiser, patience=2, reductions=2)
    rates = []
    for number, score in enumerate([0.1, 0.5, 0.4, 0.3, 0.2, 0.45]):
        assert not stopping.over
        with torch.no_grad():
            network.weight.fill_(number)
        stopping.step(score)
        rates.append(optimiser.param_groups[0]["lr"])
    # The best was the second; two validations without a better one reduce the rate, the second time it is over.
    assert rates == [1, 1, 1, SMALLER, SMALLER, SMALLER**2]
    assert stopping.over
    assert stopping.best == 0.5
    assert float(network.weight.detach()) == 1


def test_a_better_score_forgets_the_reductions() -> None:
    network = nn.Linear(1, 1)
    stopping = EarlyStopping(network, torch.optim.SGD(network.parameters(), 1.0), patience=1, reductions=2)
    for score in (0.1, 0.0, 0.2, 0.1):
        stopping.step(score)
    assert not stopping.over
    stopping.step(0.15)
    assert stopping.over
