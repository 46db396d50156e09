"""The learning rate by step."""

import math

import pytest

from cpc.training.optim import OptimConfig, learning_rate


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
