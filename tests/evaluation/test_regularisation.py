"""The chosen strength is the best on what was held out; data that need more of it get more."""

import numpy as np
import pytest
import torch

from cpc.evaluation import regularisation
from cpc.evaluation.classifier import Fitting, fit
from cpc.evaluation.examples import Examples
from cpc.evaluation.features import FrameTable
from cpc.evaluation.protocol import GRID
from cpc.evaluation.regularisation import choose_l2


def examples(count: int, seed: int, dim: int = 60, classes: int = 4) -> Examples:
    """Classes that differ in four channels; the other channels are noise, which a few examples invite to learn."""
    generator = np.random.default_rng(seed)
    y = generator.integers(0, classes, count)
    x = generator.normal(size=(count, dim))
    x[:, :classes] += 1.5 * np.eye(classes)[y]
    table = FrameTable(torch.from_numpy(x).float(), np.arange(count + 1))
    return Examples(table, np.arange(count), y, np.arange(count))


def choose(train: Examples, held: Examples, grid: tuple[float, ...] = GRID) -> regularisation.Choice:
    return choose_l2(train, held, 4, grid, Fitting(), seed=0, device="cpu")


def test_the_best_on_what_was_held_out_wins() -> None:
    train, held = examples(120, 0), examples(2000, 1)
    choice = choose(train, held)
    assert choice.tried[choice.l2] == max(choice.tried.values())
    for l2, accuracy in choice.tried.items():
        alone = fit(train.x(), torch.from_numpy(train.y), 4, Fitting(l2=l2))
        right = (alone.predict(held.x()) == torch.from_numpy(held.y)).double().mean()
        assert accuracy == pytest.approx(float(right), abs=0.01)


def test_a_losing_streak_ends_the_search() -> None:
    # With twice as many examples as channels stronger is better; nothing weaker than two that lost is tried.
    choice = choose(examples(120, 0), examples(2000, 1), grid=(1e-6, 1.0, 1e-4, 1e-2, 1e-8))
    assert list(choice.tried) == [1.0, 1e-2, 1e-4]
    assert choice.l2 == 1.0


def test_of_equal_strengths_the_stronger_is_taken() -> None:
    x = torch.eye(4).repeat(50, 1)  # classes that every strength tells apart
    train = Examples(FrameTable(x, np.arange(201)), np.arange(200), np.arange(200) % 4, np.arange(200))
    choice = choose(train, train, grid=(1e-3, 1e-2, 1e-1))
    assert set(choice.tried.values()) == {1.0}
    assert choice.l2 == 1e-1


def test_some_examples_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regularisation, "SOME", 1500)
    choice, again = (choose(examples(4000, 0), examples(1000, 1)) for _ in range(2))
    assert choice.tried == again.tried
    assert torch.equal(choice.start.weight, again.start.weight)
    assert choice.for_all == choice.l2 * 1500 / 5000  # the same prior beside more examples


def test_a_start_saves_steps_and_leaves_the_minimum() -> None:
    train = examples(3000, 0)
    x, y = train.x(), torch.from_numpy(train.y)
    x = torch.cat([x, torch.full((len(x), 1), 3.0)], 1)  # a constant channel gets no weight either way
    tight = Fitting(l2=1e-3, tolerance=1e-9)
    cold = fit(x, y, 4, tight)
    warm = fit(x, y, 4, tight, start=cold)
    assert warm.iterations <= 2 < cold.iterations
    torch.testing.assert_close(warm.logits(x), cold.logits(x), atol=2e-3, rtol=0)
