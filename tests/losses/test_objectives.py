"""Every objective equals its formula, term by term, with masks, rows without negatives, and in half precision."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cpc.losses.negatives import Grid, Hardest, SemiHard, Within
from cpc.losses.objectives import NCE, InfoNCE, PairMargin, Triplet
from cpc.losses.scores import NegativeDistance

Term = Callable[[Tensor, list[Tensor]], Tensor]


def sigmoid_loss(x: Tensor) -> Tensor:
    return -(1 / (1 + (-x).exp())).log()


def nce_term(p: Tensor, n: list[Tensor]) -> Tensor:
    shift = -1.5
    return sigmoid_loss(p - shift) + sum((sigmoid_loss(shift - x) for x in n), torch.zeros_like(p))


def info_term(p: Tensor, n: list[Tensor]) -> Tensor:
    return -(p.exp() / (p.exp() + sum((x.exp() for x in n), torch.zeros_like(p)))).log()


def hard_term(p: Tensor, n: list[Tensor]) -> Tensor:
    """Robinson et al. 2021: the importance of a negative is e^{βn} over the mean of e^{βn}."""
    if not n:
        return torch.zeros_like(p)
    weights = [(0.7 * x).exp() for x in n]
    mean = sum(weights, torch.zeros_like(p)) / len(n)
    total = sum((w / mean * x.exp() for w, x in zip(weights, n, strict=True)), torch.zeros_like(p))
    return -(p.exp() / (p.exp() + total)).log()


def triplet_term(p: Tensor, n: list[Tensor]) -> Tensor:
    excess = [x - p + 0.5 for x in n if x - p + 0.5 > 0]
    return sum(excess, torch.zeros_like(p)) / max(len(excess), 1)


def triplet_all_term(p: Tensor, n: list[Tensor]) -> Tensor:
    return sum((torch.relu(x - p + 0.5) for x in n), torch.zeros_like(p)) / max(len(n), 1)


def margin_term(p: Tensor, n: list[Tensor]) -> Tensor:
    return p**2 + sum((torch.relu(1.2 + x) ** 2 for x in n), torch.zeros_like(p)) / max(len(n), 1)


CASES = [
    (InfoNCE(), info_term),
    (InfoNCE(concentration=0.7), hard_term),
    (NCE(log_kq=-1.5), nce_term),
    (Triplet(margin=0.5), triplet_term),
    (Triplet(margin=0.5, average="all"), triplet_all_term),
    (PairMargin(margin=1.2), margin_term),
]
IDS = ["info_nce", "concentrated", "nce", "triplet", "triplet_all", "pair_margin"]


@pytest.mark.parametrize(("objective", "term"), CASES, ids=IDS)
@settings(max_examples=20)
@given(seed=st.integers(0, 2**20), anchors=st.integers(1, 4), count=st.integers(1, 5), masked=st.booleans())
def test_value_and_gradient_equal_the_formula(
    objective: Callable[..., Tensor], term: Term, seed: int, anchors: int, count: int, masked: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    p = -torch.rand(anchors, generator=generator, dtype=torch.float64).requires_grad_()
    n = (-2 * torch.rand(anchors, count, generator=generator, dtype=torch.float64)).requires_grad_()
    mask = torch.rand(anchors, count, generator=generator) < 0.5 if masked else None
    expected = torch.stack(
        [term(p[a], [n[a, i] for i in range(count) if mask is None or mask[a, i]]) for a in range(anchors)]
    )
    expected = expected + 0 * (p.sum() + n.sum())  # a gradient of 0 where nothing depends on anything
    actual = objective(p, n, mask)
    torch.testing.assert_close(actual, expected)
    for mine, theirs in zip(
        torch.autograd.grad(actual.sum(), (p, n)),
        torch.autograd.grad(expected.sum(), (p, n)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("objective", [case[0] for case in CASES], ids=IDS)
def test_an_anchor_without_negatives_has_a_finite_gradient(objective: Callable[..., Tensor]) -> None:
    p, n = torch.tensor([-0.3, -0.2], requires_grad=True), torch.full((2, 3), -0.5, requires_grad=True)
    mask = torch.tensor([[False] * 3, [True, False, True]])
    loss = objective(p, n, mask)
    grads = torch.autograd.grad(loss.sum(), (p, n))
    assert torch.isfinite(loss).all()
    assert all(torch.isfinite(grad).all() for grad in grads)
    assert (grads[1][~mask] == 0).all()


def test_a_triplet_is_info_nce_with_one_negative_to_first_order() -> None:
    # softplus(n − p) near n = p is ln 2 + (n − p)/2 + O((n − p)²): half of the triplet's n − p + m with m = 2 ln 2.
    gap = torch.linspace(-1e-3, 1e-3, 5, dtype=torch.float64)
    info = InfoNCE()(torch.zeros(5, dtype=torch.float64), gap[:, None])
    hinge = Triplet(margin=2 * math.log(2))(torch.zeros(5, dtype=torch.float64), gap[:, None])
    torch.testing.assert_close(info, hinge / 2, rtol=0, atol=1e-6 / 8 * 1.01)


def test_nce_with_many_negatives_has_info_nces_gradient() -> None:
    # With b = log(M · E e^n), σ(p − b) is InfoNCE's share of the positive, and σ(n − b) → e^{n − b} its share of each
    # negative, as M grows (Mnih & Teh 2012, section 3): compared at M = 20000.
    count = 20000
    p = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
    n = torch.randn(1, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    shift = float(n.detach().logsumexp(-1))
    ours = torch.autograd.grad(NCE(shift)(p, n).sum(), (p, n))
    info = torch.autograd.grad(InfoNCE()(p, n).sum(), (p, n))
    torch.testing.assert_close(ours[0], info[0], rtol=1e-3, atol=0)
    torch.testing.assert_close(ours[1], info[1], rtol=5e-3, atol=1e-9)


def test_a_small_temperature_leaves_the_hardest_negative_only() -> None:
    p, n = torch.tensor([0.5]), torch.tensor([[0.1, 0.9, 0.8]], requires_grad=True)
    grad = torch.autograd.grad(InfoNCE(temperature=0.005)(p, n).sum(), n)[0]
    assert grad[0, 1] / grad.sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("objective", [InfoNCE(), InfoNCE(concentration=2.0)])
def test_chance_is_ln_of_one_plus_the_negatives(objective: InfoNCE) -> None:
    assert float(objective(torch.zeros(1), torch.zeros(1, 7))) == pytest.approx(math.log(8))


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("unit", [False, True])
def test_negative_distance(squared: bool, unit: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 4, generator=generator), torch.randn(2, 5, 4, generator=generator)
    scores = NegativeDistance(squared, unit)(a, b)
    for g in range(2):
        for i in range(3):
            for j in range(5):
                x, y = (v / v.norm() if unit else v for v in (a[g, i], b[g, j]))
                distance = (x - y).norm()
                assert float(scores[g, i, j]) == pytest.approx(-float(distance**2 if squared else distance), abs=1e-5)


def test_negative_distance_is_exact_under_autocast() -> None:
    a = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = NegativeDistance()(a.bfloat16(), a.bfloat16())
    assert scores.dtype == torch.float32
    assert float(scores.diagonal(dim1=1, dim2=2).abs().max()) < 1e-3


def grid_scores() -> tuple[Tensor, Tensor, Grid]:
    grid = Grid(sequences=2, frames=4)
    scores = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1))
    return scores, torch.tensor([0, 3, 5, 6, 7]), grid


def test_within_gives_every_other_key_of_the_sequence() -> None:
    scores, positive, grid = grid_scores()
    found = Within()(scores, positive, grid)
    for g in range(3):
        for a, key in enumerate(positive.tolist()):
            own = range(key // 4 * 4, key // 4 * 4 + 4)
            expected = sorted(float(scores[g, a, k]) for k in own if k != key)
            assert sorted(found.negatives[g, a].tolist()) == pytest.approx(expected)
            assert float(found.positive[g, a]) == float(scores[g, a, key])


@pytest.mark.parametrize("within", [False, True])
def test_hardest_takes_the_highest_scores_but_never_the_positive(within: bool) -> None:
    scores, positive, grid = grid_scores()
    found = Hardest(num_negatives=3, within=within)(scores, positive, grid)
    for g in range(3):
        for a, key in enumerate(positive.tolist()):
            keys = range(key // 4 * 4, key // 4 * 4 + 4) if within else range(8)
            expected = sorted((float(scores[g, a, k]) for k in keys if k != key), reverse=True)[:3]
            assert found.negatives[g, a].tolist() == pytest.approx(expected)


def test_semi_hard_lies_behind_the_positive_and_within_the_margin() -> None:
    scores, positive, grid = grid_scores()
    found = SemiHard(margin=0.8)(scores, positive, grid)
    assert found.mask is not None
    for g in range(3):
        for a, key in enumerate(positive.tolist()):
            p = float(scores[g, a, key])
            expected = sorted(float(s) for k, s in enumerate(scores[g, a]) if k != key and p - 0.8 < float(s) < p)
            assert sorted(found.negatives[g, a][found.mask[g, a]].tolist()) == pytest.approx(expected)
