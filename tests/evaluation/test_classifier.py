"""The classifier reaches the minimum of its objective, whatever the shape of the features."""

import logging
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cpc.evaluation.probes import linear as classifier
from cpc.evaluation.probes.linear import Fitting, fit

TIGHT = Fitting(l2=1e-3, tolerance=1e-10)


def problem(n: int = 600, dim: int = 10, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Overlapping classes in correlated features of very different scales and offsets."""
    generator = np.random.default_rng(seed)
    y = generator.integers(0, classes, n)
    x = generator.normal(size=(n, dim)) + generator.normal(size=(classes, dim))[y]
    x = x @ generator.normal(size=(dim, dim)) * np.logspace(-2, 2, dim) + np.linspace(-3, 3, dim)
    return torch.from_numpy(x).float(), torch.from_numpy(y)


def test_it_agrees_with_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = problem()
    ours = fit(x, y, 4, TIGHT)
    mean, deviation = x.double().mean(0), x.double().std(0, unbiased=False)
    # Its objective is C Σ loss + ½ ‖W‖²: ours times 1/l2 where C = 1/(l2 n).
    theirs = LogisticRegression(C=1 / (TIGHT.l2 * len(x)), tol=1e-8, max_iter=10_000)
    theirs.fit(((x - mean) / deviation).numpy(), y.numpy())
    standard = (ours.weight.double() * deviation[:, None]).T
    assert np.abs(standard.numpy() - theirs.coef_).max() < 1e-3
    probabilities = theirs.predict_proba(((x - mean) / deviation).numpy())
    assert np.abs(ours.logits(x).softmax(1).numpy() - probabilities).max() < 1e-3
    assert ours.converged


def test_gradient_is_that_of_the_objective() -> None:
    x, y = problem(50, 5, 3)
    small = classifier._Problem.of(x.double(), y, 3, l2=0.1)
    generator = torch.Generator().manual_seed(0)
    v, b = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((5, 3), (3,)))
    _, (grad_v, grad_b) = small.value(v, b)
    step = 1e-5
    for i, j in ((0, 0), (4, 2), (2, 1)):
        bump = torch.zeros_like(v)
        bump[i, j] = step
        slope = (small.value(v + bump, b)[0] - small.value(v - bump, b)[0]) / (2 * step)
        assert slope == pytest.approx(float(grad_v[i, j]), rel=1e-5, abs=1e-8)
    bump = torch.tensor([step, 0, 0], dtype=torch.float64)
    slope = (small.value(v, b + bump)[0] - small.value(v, b - bump)[0]) / (2 * step)
    assert slope == pytest.approx(float(grad_b[0]), rel=1e-5, abs=1e-8)


def test_no_information_leaves_the_class_frequencies() -> None:
    # Constant features: the best softmax is the prior, whose cross entropy is its entropy.
    y = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    result = fit(torch.full((100, 3), 7.25), y, 3)
    entropy = -sum(p * math.log(p) for p in (0.6, 0.3, 0.1))
    assert result.objective == pytest.approx(entropy, rel=1e-5)
    assert (result.predict(torch.full((5, 3), 7.25)) == 0).all()


def test_scale_and_offset_of_the_features_do_not_matter() -> None:
    x, y = problem()
    plain, moved = fit(x, y, 4, TIGHT), fit(x * 3.7 - 2, y, 4, TIGHT)
    torch.testing.assert_close(plain.logits(x), moved.logits(x * 3.7 - 2), atol=2e-3, rtol=0)


def test_blocks_and_the_early_start_do_not_move_the_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = problem()
    whole = fit(x, y, 4, TIGHT)
    monkeypatch.setattr(classifier, "_block", lambda device: 7)
    monkeypatch.setattr(classifier, "_THIN_FROM", 100)
    pieces = fit(x, y, 4, TIGHT)
    torch.testing.assert_close(whole.logits(x), pieces.logits(x), atol=2e-3, rtol=0)
    assert torch.equal(whole.predict(x), pieces.predict(x))


@pytest.mark.parametrize("start", [True, False])
def test_the_curvature_of_classes_leaves_the_minimum(start: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes of very unequal size, whose features are correlated."""
    generator = torch.Generator().manual_seed(0)
    y = torch.multinomial(torch.tensor([0.7, 0.2, 0.06, 0.03, 0.01]), 4000, replacement=True, generator=generator)
    x = torch.randn(4000, 12, generator=generator) + torch.randn(5, 12, generator=generator)[y]
    x = x @ torch.randn(12, 12, generator=generator)
    near = fit(x[::4], y[::4], 5, Fitting(l2=4e-3)) if start else None
    monkeypatch.setattr("cpc.evaluation.probes.linear._THIN_FROM", 10**9 if start else 1000)
    found = {}
    for most in (10**9, 1000):
        monkeypatch.setattr("cpc.evaluation.probes.linear._CURVED_FROM", most)
        found[most] = fit(x, y, 5, Fitting(l2=1e-3, tolerance=1e-9), start=near)
    plain, curved = found.values()
    assert curved.objective == pytest.approx(plain.objective, rel=1e-6)
    torch.testing.assert_close(curved.weight, plain.weight, rtol=1e-2, atol=1e-3)


def test_coordinates_by_curvature_are_the_same_problem() -> None:
    """The way back is the inverse, the value is that of the weights, and the gradient that of the value."""
    x, y = problem(n=300, dim=4, classes=3)
    plain = classifier._Problem.of(x.double(), y, 3, 1e-2)
    curved = classifier._Curved.at(plain, plain.zeros())
    u = torch.randn(3, 5, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(curved.inverse(curved.weights(u)), u)
    value, (gradient,) = curved.value(u)
    assert value == pytest.approx(plain.value(*curved.weights(u))[0])
    for place in ((0, 0), (2, 3), (1, 4)):
        step = torch.zeros_like(u)
        step[place] = 1e-5
        slope = (curved.value(u + step)[0] - curved.value(u - step)[0]) / 2e-5
        assert float(gradient[place]) == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_separable_classes_converge() -> None:
    x = torch.eye(5).repeat(40, 1)
    y = torch.arange(5).repeat(40)
    result = fit(x, y, 5)
    assert result.converged
    assert torch.equal(result.predict(x), y)


def test_more_channels_than_frames_converge() -> None:
    x, y = problem(n=30, dim=200)
    assert fit(x, y, 4).converged


def test_stopping_early_is_said(caplog: pytest.LogCaptureFixture) -> None:
    x, y = problem()
    with caplog.at_level(logging.WARNING):
        result = fit(x, y, 4, Fitting(max_iterations=2))
    assert not result.converged
    assert result.iterations == 2
    assert "stopped after 2 iterations" in caplog.text


def test_max_frames_is_said_and_seeded(caplog: pytest.LogCaptureFixture) -> None:
    x, y = problem()
    first, second, other = (fit(x, y, 4, Fitting(max_frames=200, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first.weight, second.weight)
    assert not torch.equal(first.weight, other.weight)
    assert "200 of 600 frames" in caplog.text


def test_bad_input_is_named() -> None:
    x, y = problem()
    with pytest.raises(ValueError, match="NaN"):
        fit(x.index_fill(0, torch.tensor([3]), float("nan")), y, 4)
    with pytest.raises(ValueError, match=r"0\.\.2"):
        fit(x, y, 3)
    with pytest.raises(ValueError, match="0 frames"):
        fit(x[:0], y[:0], 4)
