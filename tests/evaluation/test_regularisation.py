"""The chosen strength is the best on what was held out; data that need more of it get more."""

import numpy as np
import pytest
import torch

from cpc.evaluation.features import FrameTable
from cpc.evaluation.probes import probe as regularisation
from cpc.evaluation.probes.dataset import Examples
from cpc.evaluation.probes.linear import Fitting, fit
from cpc.evaluation.probes.probe import choose_l2
from cpc.evaluation.probes.protocol import GRID


def examples(count: int, seed: int, dim: int = 60, classes: int = 4) -> Examples:
    """Classes that differ in four channels; the other channels are noise, which a few examples invite to learn."""
    generator = np.random.default_rng(seed)
    y = generator.integers(0, classes, count)
    x = generator.normal(size=(count, dim))
    x[:, :classes] += 1.5 * np.eye(classes)[y]
    table = FrameTable(torch.from_numpy(x).float(), np.arange(count + 1))
    return Examples(table, np.arange(count), y, np.arange(count))


def choose(train: Examples, held: Examples, grid: tuple[float, ...] = GRID) -> regularisation.L2Choice:
    return choose_l2(train, held, 4, grid, Fitting(), seed=0, device="cpu")


def test_the_best_on_what_was_held_out_wins() -> None:
    train, held = examples(120, 0), examples(2000, 1)
    choice = choose(train, held)
    assert choice.tried[choice.l2] == max(choice.tried.values())
    for l2, found in choice.tried.items():
        alone = fit(train.x(), torch.from_numpy(train.y), 4, Fitting(l2=l2))
        scores = alone.logits(held.x()).double().log_softmax(1)
        assert found == pytest.approx(float(scores.gather(1, torch.from_numpy(held.y)[:, None]).mean()), abs=0.01)


def test_a_losing_streak_ends_the_search() -> None:
    # With twice as many examples as channels stronger is better; nothing weaker than two that lost is tried.
    choice = choose(examples(120, 0), examples(2000, 1), grid=(1e-6, 1.0, 1e-4, 1e-2, 1e-8))
    assert list(choice.tried) == [1.0, 1e-2, 1e-4]
    assert choice.l2 == 1.0


def test_strengths_of_the_same_accuracy_are_told_apart() -> None:
    x = torch.eye(4).repeat(50, 1)  # classes that every strength tells apart
    train = Examples(FrameTable(x, np.arange(201)), np.arange(200), np.arange(200) % 4, np.arange(200))
    choice = choose(train, train, grid=(1e-3, 1e-2, 1e-1))
    assert len(set(choice.tried.values())) == 3
    assert choice.l2 == 1e-3


def test_few_held_out_examples_do_not_cost_a_point() -> None:
    """Utterance means of many speakers, of whom strong penalties mix up a few: of the held-out ones several strengths
    get the same number right. The accuracy of the choice is within a point of the best fixed strength's.
    """
    generator = np.random.default_rng(0)
    speakers, dim = 30, 64
    centres = generator.normal(size=(speakers, dim))

    def part(each: int) -> Examples:
        y = np.repeat(np.arange(speakers), each)
        x = torch.from_numpy(centres[y] + 1.0 * generator.normal(size=(len(y), dim))).float()
        return Examples(FrameTable(x, np.arange(len(y) + 1)), np.arange(len(y)), y, np.arange(len(y)))

    train, held, test = part(8), part(2), part(100)
    choice = choose_l2(train, held, speakers, GRID, Fitting(), seed=0, device="cpu")

    def accuracy(l2: float) -> float:
        found = fit(train.x(), torch.from_numpy(train.y), speakers, Fitting(l2=l2))
        return float((found.predict(test.x()) == torch.from_numpy(test.y)).double().mean())

    assert accuracy(choice.l2) >= max(map(accuracy, GRID)) - 0.01


def test_held_out_examples_of_unknown_classes_say_nothing() -> None:
    train, held = examples(120, 0), examples(500, 1)
    more = Examples(held.table, held.places, np.where(np.arange(500) % 5 == 0, 4, held.y), held.utterances)
    kept = held.take(np.arange(500) % 5 != 0)
    assert choose(train, more).tried == pytest.approx(choose(train, kept).tried)


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
