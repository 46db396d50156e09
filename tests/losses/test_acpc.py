"""Aligned predictions (ACPC): the cheapest order-keeping match, against one that tries them all."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cpc.losses.acpc import align
from cpc.losses.cpc import CPCLoss, CPCLossConfig
from cpc.losses.negatives import All, Negatives, Uniform, Within
from cpc.losses.scores import Cosine, Dot, NegativeDistance, Score
from cpc.models.cpc import Latents
from tests import reference

DIM, HIDDEN = 5, 4


@given(st.integers(1, 4), st.integers(0, 4), st.integers(0, 1 << 16))
@settings(deadline=None, max_examples=60)
def test_it_is_the_cheapest_of_all_ways(predictions: int, more: int, seed: int) -> None:
    frames = predictions + more
    costs = torch.rand(3, predictions, frames, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = align(costs)
    for row, way in zip(costs.tolist(), found.tolist(), strict=True):
        cost, cheapest = reference.cheapest_alignment(row)
        assert tuple(way) == cheapest
        assert sum(row[m][frame] for frame, m in enumerate(way)) == pytest.approx(cost)


def test_more_predictions_than_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="3 predictions of 2 frames"):
        align(torch.zeros(3, 2))
    with pytest.raises(ValidationError, match="aligned_predictions=5: must be at most prediction_steps=4"):
        CPCLossConfig(prediction_steps=4, aligned_predictions=5)


def latents(batch: int, frames: int) -> Latents:
    generator = torch.Generator().manual_seed(7)
    z, c = (torch.randn(batch, frames, d, generator=generator, dtype=torch.float64) for d in (DIM, HIDDEN))
    return Latents(z.requires_grad_(), c.requires_grad_())


@pytest.mark.parametrize("score", [Dot(0.5), Cosine(0.1), Cosine(0.2, centre="window"), NegativeDistance()])
def test_the_loss_is_that_of_the_cheapest_match_of_every_anchor(score: Score) -> None:
    """−log softmax of every prediction at every frame ahead, matched by trying all ways; anchors one by one."""
    torch.manual_seed(0)
    loss = CPCLoss(4, DIM, HIDDEN, Within(), score=score, group_size=1, aligned_predictions=2).double()
    given_latents = latents(2, 9)
    assert loss.heads.weight.shape == (2, DIM, HIDDEN)
    total = 0.0
    for z, c in zip(*(part.detach() for part in given_latents), strict=True):
        keys = z - z.mean(0) if isinstance(score, Cosine) and score.centre == "window" else z
        for t in range(5):
            scores = score((loss.heads.weight @ c[t]).detach()[None], keys[None])[0]  # (prediction, frame)
            costs = -scores.double().log_softmax(1)[:, t + 1 : t + 5]
            total += reference.cheapest_alignment(costs.tolist())[0] / (2 * 5 * 4)
    found = loss(given_latents)
    assert found.loss.item() == pytest.approx(total, rel=1e-6)
    assert not found.bounded
    assert bool(torch.isnan(found.bound).all())


@pytest.mark.parametrize("negatives", [All(), Within(), Uniform(num_negatives=6)])
def test_as_many_predictions_as_frames_are_plain_cpc(negatives: Negatives) -> None:
    """One way is left: prediction k for frame k. The same numbers and gradients."""
    torch.manual_seed(0)
    plain = CPCLoss(3, DIM, HIDDEN, negatives, group_size=2).double()
    every = CPCLoss(3, DIM, HIDDEN, negatives, group_size=2, aligned_predictions=3).double()
    every.load_state_dict(plain.state_dict())
    given_latents = latents(4, 8)
    one, other = (loss(given_latents, torch.Generator().manual_seed(1)) for loss in (plain, every))
    torch.testing.assert_close(one.per_step, other.per_step)
    for a, b in zip(
        torch.autograd.grad(one.loss, (*given_latents, *plain.parameters())),
        torch.autograd.grad(other.loss, (*given_latents, *every.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_nothing_known_is_chance_and_one_prediction_takes_every_frame() -> None:
    loss = CPCLoss(4, DIM, HIDDEN, Within(), group_size=1, aligned_predictions=1)
    still = loss(Latents(torch.zeros(2, 9, DIM), torch.ones(2, 9, HIDDEN)))
    assert still.loss.item() == pytest.approx(math.log(9)) == pytest.approx(still.ceiling)
    predictions = loss.predict(Latents(torch.randn(2, 9, DIM), torch.randn(2, 9, HIDDEN)))
    assert torch.equal(predictions, predictions[:1].expand_as(predictions))


def test_a_part_of_a_batch_is_aligned_as_the_whole_is() -> None:
    """Each anchor is matched within its own window, whatever else is in the batch."""
    torch.manual_seed(0)
    loss = CPCLoss(4, DIM, HIDDEN, All(), score=Cosine(0.1, centre="group"), aligned_predictions=2).double()
    whole = latents(4, 9)
    part = Latents(whole.z[1:2], whole.c[1:2])
    torch.testing.assert_close(loss.predict(whole)[:, 1:2], loss.predict(part))
