"""Contrast by labels equals the losses on plain tensors, which have oracles of their own, and a loop over pairs."""

import math

import pytest
import torch
from torch import Tensor

import cpc
from cpc.losses.contrast import by_label, contrast_pairs
from cpc.losses.objectives import NCE, InfoNCE, Objective, PairMargin, Triplet
from cpc.losses.scores import Cosine, NegativeDistance

LABELS = torch.tensor([0, 0, 1, 1, 1, 2, 2, 3])  # the last has no positive


def vectors(seed: int = 0) -> Tensor:
    return torch.randn(len(LABELS), 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def among_themselves(labels: Tensor = LABELS) -> tuple[Tensor, Tensor]:
    return by_label(labels, labels, torch.arange(len(labels)))


def assert_equal(mine: Tensor, theirs: Tensor, x: Tensor) -> None:
    torch.testing.assert_close(mine, theirs)
    (a,), (b,) = torch.autograd.grad(mine, x), torch.autograd.grad(theirs, x)
    torch.testing.assert_close(a, b)


def test_info_nce_over_labels_is_sup_con() -> None:
    x = vectors().requires_grad_()
    found = contrast_pairs(Cosine(0.2)(x[None], x[None])[0], *among_themselves(), InfoNCE())
    assert_equal(found.mean, cpc.sup_con(x, LABELS, temperature=0.2), x)
    assert found.valid.tolist() == [True] * 7 + [False]


def test_info_nce_over_two_views_is_nt_xent() -> None:
    x, labels = vectors().requires_grad_(), torch.arange(4).repeat(2)
    found = contrast_pairs(Cosine(0.5)(x[None], x[None])[0], *among_themselves(labels), InfoNCE())
    assert_equal(found.mean, cpc.nt_xent(x[:4], x[4:], temperature=0.5), x)


def test_pair_margin_over_labels_is_the_function() -> None:
    x = vectors()[:7].requires_grad_()
    same, other = among_themselves(LABELS[:7])
    found = contrast_pairs(NegativeDistance()(x[None], x[None])[0], same, other, PairMargin(1.1))
    assert_equal(found.mean, cpc.pair_margin(x, LABELS[:7], margin=1.1), x)


@pytest.mark.parametrize("objective", [InfoNCE(0.3), InfoNCE(0.3, 2.0), NCE(-0.7), PairMargin(1.4), Triplet(0.4)])
def test_every_objective_equals_itself_over_a_loop_of_pairs(objective: Objective) -> None:
    """One positive at a time, against the negatives that are the anchor's, as plain rows."""
    x = vectors(4).requires_grad_()
    found, scores = (NegativeDistance()(x[None], x[None])[0] for _ in range(2))
    same, other = among_themselves()
    means = []
    for row, near, far in zip(scores, same, other, strict=True):
        losses = []
        for p in near.nonzero().flatten():
            rivals = far | near if isinstance(objective, InfoNCE) else far
            rivals = rivals & (torch.arange(len(row)) != p)
            losses.append(objective(row[p][None], row[rivals][None])[0])
        means += [torch.stack(losses).mean()] if losses else []
    assert_equal(contrast_pairs(found, same, other, objective).mean, torch.stack(means).mean(), x)


@pytest.mark.parametrize("mining", ["all", "hard", "semi_hard"])
def test_triplets_and_nce_equal_a_loop(mining: str) -> None:
    x = vectors(3)
    scores = NegativeDistance()(x[None], x[None])[0]
    same, other = among_themselves()
    kept = {
        "all": lambda gap: True,
        "hard": lambda gap: gap <= 0,
        "semi_hard": lambda gap: 0 < gap < 0.4,
    }[mining]
    for objective, term, first in (
        (Triplet(0.4, "all"), lambda p, n: max(0.0, n - p + 0.4), lambda p: 0.0),
        (NCE(), lambda p, n: math.log1p(math.exp(n)), lambda p: math.log1p(math.exp(-p))),
    ):
        found = contrast_pairs(scores, same, other, objective, mining, 0.4)  # type: ignore[arg-type]
        for a in range(len(x)):
            losses = []
            for p in range(len(x)):
                if a == p or LABELS[a] != LABELS[p]:
                    continue
                near = float(scores[a, p])
                far = [float(scores[a, n]) for n in range(len(x)) if LABELS[n] != LABELS[a]]
                far = [score for score in far if kept(near - score)]
                total = sum(term(near, score) for score in far)
                losses.append(first(near) + (total / max(len(far), 1) if isinstance(objective, Triplet) else total))
            assert float(found.loss[a]) == pytest.approx(sum(losses) / max(len(losses), 1))


def test_an_unknown_label_is_neither_positive_nor_negative() -> None:
    x, labels = vectors(), LABELS.clone()
    labels[2] = -1
    scores = Cosine(0.2)(x[None], x[None])[0]
    without = torch.tensor([0, 1, 3, 4, 5, 6, 7])
    found = contrast_pairs(scores, *among_themselves(labels), InfoNCE())
    left = contrast_pairs(scores[without][:, without], *among_themselves(labels[without]), InfoNCE())
    torch.testing.assert_close(found.loss[without], left.loss)
    assert not found.valid[2]


def test_correct_is_the_best_positive_above_every_negative() -> None:
    scores = torch.tensor([[0.0, 3.0, 1.0, 2.0], [3.0, 0.0, 4.0, 1.0]])
    same = torch.tensor([[False, True, False, False], [True, False, False, False]])
    other = torch.tensor([[False, False, True, True], [False, False, True, True]])
    found = contrast_pairs(scores, same, other, InfoNCE())
    assert found.correct.tolist() == [True, False]
    assert float(found.accuracy) == 0.5


def test_a_batch_without_positives_has_no_loss_and_no_nan() -> None:
    x = vectors().requires_grad_()
    alone = torch.arange(len(LABELS))
    found = contrast_pairs(Cosine()(x[None], x[None])[0], *among_themselves(alone), InfoNCE())
    assert found.mean.item() == 0
    assert torch.isfinite(torch.autograd.grad(found.mean, x)[0]).all()
