"""The optimiser, and its learning rate by step."""

import math

import pytest
import torch

from cpc.models.heads import Bilinear
from cpc.training.optim import OptimConfig, learning_rate, optimizer


def test_warmup_rises_linearly_then_stays() -> None:
    config = OptimConfig(lr=1.0, warmup_steps=4)
    assert [learning_rate(config, step, 100) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])


def test_cosine_falls_to_the_floor() -> None:
    config = OptimConfig(lr=2.0, warmup_steps=10, schedule="cosine", min_lr_ratio=0.1)
    assert learning_rate(config, 10, 110) == pytest.approx(2.0)
    assert learning_rate(config, 60, 110) == pytest.approx(2.0 * (0.1 + 0.9 * (1 + math.cos(math.pi / 2)) / 2))
    assert learning_rate(config, 110, 110) == pytest.approx(0.2)
    rates = [learning_rate(config, step, 110) for step in range(10, 111)]
    assert rates == sorted(rates, reverse=True)


def test_muon_takes_matrices_and_adam_the_rest() -> None:
    """Against torch's own optimisers on matrices that were taken apart by hand: five steps, bit for bit."""
    torch.manual_seed(0)
    convolution, heads = torch.nn.Conv1d(4, 6, 3), Bilinear(2, 5, 4)
    config = OptimConfig(kind="muon", lr=0.01, weight_decay=0.1)
    flat, stacked = convolution.weight.detach().flatten(1).clone(), heads.weight.detach().clone()
    assert convolution.bias is not None
    bias = torch.nn.Parameter(convolution.bias.detach().clone())
    matrices = [torch.nn.Parameter(m) for m in (flat, *stacked)]
    muon = torch.optim.Muon(matrices, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW([bias], lr=0.01, weight_decay=0.1, fused=True)
    ours = optimizer(config, convolution, heads)
    for step in range(5):
        generator = torch.Generator().manual_seed(step)
        for parameter in (convolution.weight, convolution.bias, heads.weight):
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        matrices[0].grad, bias.grad = convolution.weight.grad.flatten(1), convolution.bias.grad
        matrices[1].grad, matrices[2].grad = heads.weight.grad
        for group in (*ours.param_groups, *muon.param_groups, *adam.param_groups):
            group["lr"] = 0.01 / (step + 1)
        ours.step()
        muon.step()  # type: ignore[no-untyped-call]
        adam.step()
    assert torch.equal(convolution.weight.flatten(1), matrices[0])
    assert torch.equal(heads.weight, torch.stack(matrices[1:]))
    assert torch.equal(convolution.bias, bias)


def test_the_updates_of_muon_are_orthogonal() -> None:
    """Singular values of a gradient that span a factor of 20 are within a factor of 4 in the update (0.5 to 1.5)."""
    linear = torch.nn.Linear(16, 8, bias=False)
    before, ours = linear.weight.detach().clone(), optimizer(OptimConfig(kind="muon", lr=1e-3), linear)
    u, _, v = torch.linalg.svd(torch.randn(8, 16, generator=torch.Generator().manual_seed(0)), full_matrices=False)
    linear.weight.grad = u @ torch.diag(torch.logspace(0, -1.3, 8)) @ v
    ours.step()
    sizes = torch.linalg.svdvals((linear.weight - before).detach())
    assert sizes.max() < 4 * sizes.min()
    assert sizes.mean() == pytest.approx(1e-3 * 0.2 * math.sqrt(16), rel=0.3)  # the size that Adam's updates have
