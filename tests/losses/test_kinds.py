"""The kinds of triplets share out all of them, as a loop counts."""

import pytest
import torch

from cpc.losses.contrast import by_label, contrast, contrast_pairs
from cpc.losses.negatives import Grid, Uniform
from cpc.losses.objectives import KINDS, InfoNCE, Triplet, shares_by_kind
from cpc.losses.scores import Dot, NegativeDistance

LABELS = torch.tensor([0, 0, 1, 1, 1, 2, -1])


def kind(gap: float, margin: float) -> str:
    return "easy" if gap >= margin else "hard" if gap <= 0 else "semi_hard"


@pytest.mark.parametrize("masked", [False, True])
def test_shares_equal_a_loop(masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    positive, negatives = torch.randn(5, generator=generator), torch.randn(5, 7, generator=generator)
    mask = torch.rand(5, 7, generator=generator) < 0.6 if masked else torch.ones(5, 7, dtype=torch.bool)
    found = shares_by_kind(Triplet(0.5), positive, negatives, mask if masked else None)
    kinds = [kind(float(positive[i] - negatives[i, j]), 0.5) for i, j in mask.nonzero().tolist()]
    assert found is not None
    assert found.tolist() == pytest.approx([kinds.count(name) / len(kinds) for name in KINDS])
    assert float(found.sum()) == pytest.approx(1)


def test_other_objectives_have_none() -> None:
    x = torch.randn(2, 12, 4, generator=torch.Generator().manual_seed(0))
    for objective, some in ((InfoNCE(), False), (Triplet(), True)):
        found = contrast(
            x, x, torch.arange(12), Grid(3, 4), score=Dot(), negatives=Uniform(3), objective=objective,
            generator=torch.Generator().manual_seed(1),
        )  # fmt: skip
        assert (found.kinds is not None) == some


def test_mining_leaves_the_shares_alone() -> None:
    x = torch.randn(len(LABELS), 4, generator=torch.Generator().manual_seed(2))
    same, other = by_label(LABELS, LABELS, torch.arange(len(LABELS)))
    scores = NegativeDistance()(x[None], x[None])[0]
    every, mined = (contrast_pairs(scores, same, other, Triplet(0.3), mining).kinds for mining in ("all", "semi_hard"))
    gaps = [
        float(scores[a, p] - scores[a, n])
        for a, p in same.nonzero().tolist()
        for n in other[a].nonzero().flatten().tolist()
    ]
    kinds = [kind(gap, 0.3) for gap in gaps]
    assert every is not None
    assert every.tolist() == pytest.approx([kinds.count(name) / len(kinds) for name in KINDS])
    assert mined is not None
    assert torch.equal(every, mined)
