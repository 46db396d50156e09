"""The contrastive core: laws of the candidates, and losses against their formulas."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cpc.losses.contrast import contrast
from cpc.losses.negatives import All, Grid, Uniform, pick
from cpc.losses.objectives import InfoNCE
from cpc.losses.scores import Cosine, Dot
from tests import reference

SHARES = st.sampled_from([0.0, 0.25, 0.5, 1.0])


def anchors_of(grid: Grid) -> torch.Tensor:
    return torch.arange(grid.sequences * grid.frames)


@settings(max_examples=60)
@given(st.integers(2, 5), st.integers(2, 9), st.integers(1, 40), SHARES, st.integers(0, 99))
def test_positive_is_never_drawn_and_shares_hold(
    sequences: int, frames: int, count: int, across: float, seed: int
) -> None:
    grid = Grid(sequences, frames)
    positive = anchors_of(grid)
    drawn = Uniform(count, across).draw(positive, grid, 3, torch.Generator().manual_seed(seed))
    assert drawn.shape == (3, len(positive), count)
    assert drawn.min() >= 0
    assert drawn.max() < sequences * frames
    assert not (drawn == positive[:, None]).any()
    elsewhere = (drawn // frames != (positive // frames)[:, None]).sum(-1)
    assert (elsewhere == round(count * across)).all()


def test_every_other_key_is_equally_likely() -> None:
    grid, count = Grid(3, 5), 60_000
    drawn = Uniform(count, cross_sequence_fraction=0.5).draw(
        torch.tensor([7]), grid, 1, torch.Generator().manual_seed(0)
    )
    seen = torch.bincount(drawn.flatten(), minlength=15)
    assert seen[7] == 0
    within, across = seen[[5, 6, 8, 9]], seen[[0, 1, 2, 3, 4, 10, 11, 12, 13, 14]]
    for counts, keys in ((within, 4), (across, 10)):
        expected = count / 2 / keys
        assert (counts - expected).abs().max() < 5 * math.sqrt(expected)  # five standard deviations


def test_same_seed_same_negatives() -> None:
    grid = Grid(4, 6)
    draws = [Uniform(8).draw(anchors_of(grid), grid, 2, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_nothing_to_draw_from_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cross_sequence_fraction=0.5: needs at least 2 sequences .* got 1"):
        Uniform(4, 0.5).draw(torch.tensor([0]), Grid(1, 9), 1, None)
    with pytest.raises(ValueError, match="one frame a sequence"):
        Uniform(4, 0.0).draw(torch.tensor([0]), Grid(9, 1), 1, None)
    with pytest.raises(ValueError, match="less than or equal to 1"):
        Uniform(4, 1.5)


def test_pick_is_gather() -> None:
    scores = torch.randn(2, 3, 7, dtype=torch.float64)
    index = torch.randint(0, 7, (2, 3, 4))
    assert torch.equal(pick(scores, index), scores.gather(2, index))
    assert pick(scores.bfloat16(), index).dtype == torch.float32


@given(st.integers(1, 300), st.floats(-30, 30))
def test_chance_is_ln_one_plus_m(count: int, score: float) -> None:
    loss = InfoNCE()(torch.tensor([score]), torch.full((1, count), score))
    assert loss.item() == pytest.approx(reference.chance(count), rel=1e-5)


def test_info_nce_is_the_formula_and_cross_entropy() -> None:
    torch.manual_seed(0)
    scores = torch.randn(5, 9, dtype=torch.float64, requires_grad=True)
    ours = InfoNCE()(scores[:, 0], scores[:, 1:])
    formula = torch.stack([reference.info_nce(row[0], list(row[1:])) for row in scores])
    torch.testing.assert_close(ours, formula, rtol=1e-12, atol=1e-12)
    entropy = F.cross_entropy(scores, torch.zeros(5, dtype=torch.long), reduction="none")
    torch.testing.assert_close(ours, entropy, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(x.sum(), scores, retain_graph=True)[0] for x in (ours, formula)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-12)


def test_info_nce_survives_extreme_scores() -> None:
    loss = InfoNCE()(torch.tensor([1e4, -1e4]), torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
    assert loss[0] == 0
    assert loss[1] == pytest.approx(1e4 + 1.3133, rel=1e-6)  # 1e4 + ln(1 + e)


def test_temperature_divides_scores() -> None:
    positive, negatives = torch.randn(4), torch.randn(4, 6)
    torch.testing.assert_close(InfoNCE(temperature=0.5)(positive, negatives), InfoNCE()(positive * 2, negatives * 2))


def test_masked_negatives_do_not_count() -> None:
    positive, negatives = torch.randn(3), torch.randn(3, 8)
    mask = torch.arange(8).expand(3, 8) < 5
    torch.testing.assert_close(InfoNCE()(positive, negatives, mask), InfoNCE()(positive, negatives[:, :5]))


def test_all_is_cross_entropy_over_every_key() -> None:
    torch.manual_seed(1)
    grid = Grid(2, 4)
    anchors, keys = torch.randn(1, 8, 5), torch.randn(1, 8, 5)
    found = contrast(anchors, keys, torch.arange(8), grid, score=Dot(scale=0.5), negatives=All(), objective=InfoNCE())
    expected = F.cross_entropy(0.5 * anchors[0] @ keys[0].T, torch.arange(8), reduction="none")
    torch.testing.assert_close(found.loss[0], expected)
    best = (anchors[0] @ keys[0].T).argmax(-1) == torch.arange(8)
    assert torch.equal(found.correct[0], best)
    assert All().size(grid) == 7


def test_cosine_is_the_angle() -> None:
    a = torch.tensor([[[3.0, 4.0]]])
    b = torch.tensor([[[6.0, 8.0], [-4.0, 3.0], [-3.0, -4.0]]])
    torch.testing.assert_close(Cosine(temperature=0.5)(a, b), torch.tensor([[[2.0, 0.0, -2.0]]]))


def test_negatives_enter_their_own_group_only() -> None:
    """Groups are independent: changing one leaves the losses of the other alone."""
    grid, positive = Grid(2, 3), torch.arange(6)
    anchors, keys = torch.randn(2, 6, 4), torch.randn(2, 6, 4)
    parts = {"score": Dot(), "negatives": Uniform(5), "objective": InfoNCE()}
    before = contrast(anchors, keys, positive, grid, generator=torch.Generator().manual_seed(0), **parts)
    keys[1] += 1
    after = contrast(anchors, keys, positive, grid, generator=torch.Generator().manual_seed(0), **parts)
    assert torch.equal(before.loss[0], after.loss[0])
    assert not torch.equal(before.loss[1], after.loss[1])
