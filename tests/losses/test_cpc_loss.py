"""The CPC loss against the slow oracle, and its laws."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from cpc.config import InputError
from cpc.losses.cpc import CPCLoss
from cpc.losses.negatives import All, Grid, Hardest, Negatives, SemiHard, Uniform, Within
from cpc.losses.objectives import NCE, InfoNCE, Objective, PairMargin, Triplet
from cpc.losses.scores import Cosine, Dot, NegativeDistance, Score
from cpc.losses.sharding import BatchShard, blocks, positives
from cpc.models.cpc import Latents
from cpc.training.recipe import load_config
from tests import reference

STEPS, DIM, HIDDEN, COUNT, SCALE = 3, 5, 4, 7, 0.3


def latents(batch: int, frames: int, dtype: torch.dtype, seed: int = 0) -> Latents:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, frames, DIM, dtype=dtype, generator=generator)
    c = torch.randn(batch, frames, HIDDEN, dtype=dtype, generator=generator)
    return Latents(z.requires_grad_(), c.requires_grad_())


def criterion(group: int, dtype: torch.dtype) -> CPCLoss:
    torch.manual_seed(1)
    loss = CPCLoss(STEPS, DIM, HIDDEN, Uniform(COUNT, 0.5), score=Dot(scale=SCALE), group_size=group)
    return loss.to(dtype)


def replay(batch: int, frames: int, group: int, seed: int, most: int = 1) -> dict[tuple[int, int], torch.Tensor]:
    """The negatives that `CPCLoss` draws from a generator of this seed, by step and first sequence of the group."""
    generator, drawn = torch.Generator().manual_seed(seed), {}
    for first in range(1, STEPS + 1, most):
        steps = range(first, min(first + most, STEPS + 1))
        where = positives(group, frames - STEPS, frames, steps, torch.device("cpu"))
        found = Uniform(COUNT, 0.5).draw(where, Grid(group, frames), batch // group, generator)
        for place, k in enumerate(steps):
            drawn |= {(k, number * group): indices[place :: len(steps)] for number, indices in enumerate(found)}
    return drawn


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize(("batch", "group"), [(4, 4), (4, 2), (6, 3)])
@pytest.mark.parametrize("most", [1, 2, STEPS])
def test_equals_the_oracle(
    batch: int, group: int, dtype: torch.dtype, tolerance: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many steps are scored at once."""
    frames = 8
    monkeypatch.setattr("cpc.losses.cpc.MOST_PICKED", {"cpu": most * batch * (frames - STEPS) * group * frames})
    given_latents, loss = latents(batch, frames, dtype), criterion(group, dtype)
    ours = loss(given_latents, torch.Generator().manual_seed(5))
    z, c = given_latents
    expected = reference.cpc_losses(z, c, loss.heads.weight, replay(batch, frames, group, 5, most), group, SCALE)
    torch.testing.assert_close(ours.per_step, torch.stack(expected), rtol=tolerance, atol=tolerance)
    inputs = (z, c, loss.heads.weight)
    fast = torch.autograd.grad(ours.loss, inputs)
    slow = torch.autograd.grad(torch.stack(expected).mean(), inputs)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_uneven_groups_equal_the_oracle() -> None:
    """Seven sequences in groups of at most three: one group of three, then two of two."""
    assert list(blocks(7, 3)) == [(slice(0, 3), 3), (slice(3, 7), 2)]
    batch, frames = 7, 8
    given_latents, loss = latents(batch, frames, torch.float64), criterion(3, torch.float64)
    ours = loss(given_latents, torch.Generator().manual_seed(5))
    z, c = (tensor.detach() for tensor in given_latents)
    generator = torch.Generator().manual_seed(5)
    drawn: dict[int, dict[tuple[int, int], torch.Tensor]] = {3: {}, 2: {}}
    for k in range(1, STEPS + 1):
        for block, size in blocks(batch, 3):
            where = positives(size, frames - STEPS, frames, range(k, k + 1), torch.device("cpu"))
            groups = (block.stop - block.start) // size
            found = Uniform(COUNT, 0.5).draw(where, Grid(size, frames), groups, generator)
            drawn[size] |= {(k, number * size): indices for number, indices in enumerate(found)}
    expected = torch.zeros(STEPS, dtype=torch.float64)
    for block, size in blocks(batch, 3):
        part = reference.cpc_losses(z[block], c[block], loss.heads.weight.detach(), drawn[size], size, SCALE)
        expected += torch.stack(part) * (block.stop - block.start) / batch
    torch.testing.assert_close(ours.per_step.detach(), expected, rtol=1e-10, atol=1e-10)


@given(st.integers(1, 300), st.integers(1, 40))
def test_blocks_cover_the_batch_in_near_equal_groups(batch: int, group: int) -> None:
    found = list(blocks(batch, group))
    assert [b.start for b, _ in found] == [0, *(b.stop for b, _ in found[:-1])]
    assert found[-1][0].stop == batch
    sizes = [size for _, size in found]
    assert max(sizes) <= group
    assert max(sizes) - min(sizes) <= 1
    assert all((b.stop - b.start) % size == 0 for b, size in found)
    assert sum((b.stop - b.start) // size for b, size in found) == math.ceil(batch / group)


@given(st.integers(1, 11), st.integers(1, 9), st.sampled_from(["uniform", "all", "within"]), st.integers(5, 9))
def test_without_information_the_bound_is_zero(batch: int, group: int, kind: str, frames: int) -> None:
    """Zero heads score everything alike: the loss is ln(1 + M) whatever the groups' sizes, and so is the ceiling."""
    negatives = {"uniform": Uniform(COUNT, 0.0), "all": All(), "within": Within()}[kind]
    loss = CPCLoss(STEPS, DIM, HIDDEN, negatives, group_size=group).double()
    torch.nn.init.zeros_(loss.heads.weight)
    found = loss(latents(batch, frames, torch.float64))
    torch.testing.assert_close(found.bound, torch.zeros(STEPS, dtype=torch.float64), atol=1e-6, rtol=0)
    assert math.isclose(found.ceiling, float(found.loss.detach()), abs_tol=1e-6)


@pytest.mark.parametrize("part", [0, 1])
def test_without_information_the_bound_of_a_share_is_zero(part: int) -> None:
    """Four of the eight sequences of a batch, in groups of two: the ceiling is that of the whole batch."""
    loss = CPCLoss(STEPS, DIM, HIDDEN, All(), group_size=2).double()
    torch.nn.init.zeros_(loss.heads.weight)
    found = loss(latents(4, 7, torch.float64), share=BatchShard(part, 2))
    torch.testing.assert_close(found.bound, torch.zeros(STEPS, dtype=torch.float64), atol=1e-6, rtol=0)


def test_groups_of_two_sizes_have_the_ceiling_that_was_found_wrong() -> None:
    """Ten sequences in groups of at most 8 are two of 5: of 20 frames each, 99 others."""
    assert CPCLoss(STEPS, DIM, HIDDEN, All()).ceiling(10, 20) == pytest.approx(math.log(100))
    assert CPCLoss(STEPS, DIM, HIDDEN, All()).chance(10, 20) == pytest.approx(1 / 100)


def test_chance_loss_bound_and_ceiling() -> None:
    loss = CPCLoss(STEPS, DIM, HIDDEN, Uniform(COUNT))
    torch.nn.init.zeros_(loss.heads.weight)  # every score is 0
    found = loss(latents(4, 9, torch.float32))
    ceiling = reference.chance(COUNT)
    torch.testing.assert_close(found.per_step, torch.full((STEPS,), ceiling))
    torch.testing.assert_close(found.bound, torch.zeros(STEPS), atol=1e-6, rtol=0)
    assert found.ceiling == pytest.approx(ceiling)
    assert found.accuracy.max() == 0  # a tie is not a win


def test_perfect_prediction_reaches_the_ceiling() -> None:
    """z that names its place, and heads that look it up: loss 0, accuracy 1, bound ln(1 + M)."""
    frames = 6
    z = torch.eye(2 * frames).view(2, frames, 2 * frames) * 40
    loss = CPCLoss(1, 2 * frames, 2 * frames, Uniform(COUNT))
    with torch.no_grad():
        loss.heads.weight.copy_(torch.roll(torch.eye(2 * frames), 1, dims=0)[None])  # place i predicts place i + 1
    found = loss(Latents(z, z))
    assert found.loss < 1e-6
    assert found.accuracy.tolist() == [1.0]
    assert found.bound.item() == pytest.approx(found.ceiling, abs=1e-5)


def test_permuting_the_batch_changes_nothing_with_all_negatives() -> None:
    loss = CPCLoss(STEPS, DIM, HIDDEN, All())
    z, c = latents(4, 8, torch.float64)
    loss = loss.double()
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(loss(Latents(z, c)).per_step, loss(Latents(z[order], c[order])).per_step)


def test_too_few_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="frames=3: must exceed prediction_steps=3"):
        criterion(4, torch.float32)(latents(4, 3, torch.float32))


def test_half_precision_scores_are_compared_in_float32() -> None:
    loss = criterion(4, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(latents(4, 8, torch.float32), torch.Generator().manual_seed(0))
    full = loss(latents(4, 8, torch.float32), torch.Generator().manual_seed(0))
    assert found.per_step.dtype == torch.float32
    torch.testing.assert_close(found.per_step, full.per_step, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("negatives", "objective", "score", "bounded"),
    [
        (Within(), InfoNCE(), Dot(), True),
        (All(cross_weight=0.5), InfoNCE(), Dot(), False),
        (Hardest(num_negatives=8), InfoNCE(), Dot(), False),
        (Uniform(num_negatives=8), InfoNCE(concentration=1.0), Cosine(), False),
        (Uniform(num_negatives=8), NCE(log_kq=-1.0), Dot(), False),
        (SemiHard(), Triplet(), NegativeDistance(), False),
        (All(), PairMargin(), NegativeDistance(), False),
    ],
    ids=lambda part: getattr(part, "kind", str(part)),
)
def test_every_part_of_the_family_trains_and_says_whether_it_bounds_information(
    negatives: Negatives, objective: Objective, score: Score, bounded: bool
) -> None:
    torch.manual_seed(0)
    loss_fn = CPCLoss(2, DIM, HIDDEN, negatives=negatives, objective=objective, score=score)
    losses = loss_fn(latents(3, 10, torch.float32), torch.Generator().manual_seed(0))
    torch.autograd.backward(losses.loss)
    weight = next(loss_fn.parameters())
    assert torch.isfinite(losses.loss)
    assert weight.grad is not None
    assert float(weight.grad.abs().sum()) > 0
    assert bool(torch.isfinite(losses.bound).all()) == bounded


@pytest.mark.parametrize(("centre", "group"), [("window", 1), ("window", 2), ("group", 2), ("group", 4)])
def test_a_centred_cosine_is_its_oracle(centre: str, group: int) -> None:
    """Values and gradients, in double precision."""
    score = Cosine(0.2, centre=centre)  # type: ignore[arg-type]
    loss = CPCLoss(STEPS, DIM, HIDDEN, All(), score=score, group_size=group).double()
    ours, slow = latents(4, 6, torch.float64), latents(4, 6, torch.float64)
    found = loss(ours)
    expected = torch.stack(
        reference.centred_cosine_losses(slow.z, slow.c, loss.heads.weight.detach(), group, 0.2, centre)
    )
    torch.testing.assert_close(found.per_step, expected, rtol=1e-10, atol=1e-10)
    found.loss.backward()
    expected.mean().backward()
    torch.testing.assert_close(ours.z.grad, slow.z.grad, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(ours.c.grad, slow.c.grad, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("centre", "changes"), [("none", True), ("window", False), ("group", False)])
def test_adding_a_constant_to_all_keys_changes_nothing(centre: str, changes: bool) -> None:
    """What all frames have in common is no information; plain cosines see little else when it is large."""
    score = Cosine(0.1, centre=centre)  # type: ignore[arg-type]
    loss = CPCLoss(STEPS, DIM, HIDDEN, Uniform(COUNT, 0.5), score=score).double()
    here = latents(4, 7, torch.float64)
    moved = Latents((here.z + 100 * torch.arange(DIM)).detach().requires_grad_(), here.c.detach().requires_grad_())
    found = [loss(given, torch.Generator().manual_seed(0)).per_step for given in (here, moved)]
    assert torch.allclose(found[0], found[1], rtol=1e-9) != changes
    if not changes:
        gradients = [
            torch.autograd.grad(each.sum(), given.z)[0] for each, given in zip(found, (here, moved), strict=True)
        ]
        torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-10)


def test_a_share_centres_by_its_whole_group() -> None:
    """Two shares of a batch whose groups lie inside them have the losses of the whole batch."""
    loss = CPCLoss(STEPS, DIM, HIDDEN, All(), score=Cosine(0.1, centre="group"), group_size=2).double()
    whole = latents(8, 7, torch.float64)
    parts = [Latents(whole.z[4 * i : 4 * i + 4], whole.c[4 * i : 4 * i + 4]) for i in range(2)]
    found = torch.stack([loss(part, share=BatchShard(i, 2)).per_step for i, part in enumerate(parts)]).mean(0)
    torch.testing.assert_close(found, loss(whole).per_step, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["instance", "supervised"])
def test_only_frames_are_centred(kind: str) -> None:
    loss = {"kind": kind, "score": {"kind": "cosine", "centre": "window"}}
    with pytest.raises(InputError, match=r"score.centre=window: is for the frames of loss.kind=cpc; give none"):
        load_config({"data": {"corpus": "x"}, "loss": loss})


@pytest.mark.parametrize(
    ("score", "negatives", "group", "objective", "learnable"),
    [
        (Dot(scale=0.5), Within(), 8, InfoNCE(), ()),
        (Cosine(0.1), All(), 1, InfoNCE(), ()),
        (Cosine(0.1, centre="window"), Within(), 1, InfoNCE(temperature=0.5), ()),
        (Cosine(1.0, centre="window"), Within(), 2, InfoNCE(), ("temperature",)),
        (NegativeDistance(), All(), 1, InfoNCE(), ()),
        (Cosine(0.1, centre="window"), All(), 2, InfoNCE(), ()),
        (Cosine(0.1, centre="group"), All(), 3, InfoNCE(), ("temperature",)),
        (Dot(scale=0.5), All(), 6, InfoNCE(), ()),
        (Cosine(0.2, centre="window"), All(cross_weight=0.7), 2, InfoNCE(), ()),
        (Dot(scale=0.5), All(cross_weight=0.2), 3, InfoNCE(temperature=0.5), ("temperature",)),
    ],
)
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_steps_at_once_equal_them_step_by_step(
    score: Score,
    negatives: Negatives,
    group: int,
    objective: Objective,
    learnable: tuple[str, ...],
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loss, its parts and its gradients, whatever the windows that are scored at once."""
    monkeypatch.setattr("cpc.losses.cpc.MOST_SCORES", {"cpu": chunk})
    torch.manual_seed(2)
    given_latents = latents(6, 9, torch.float64)
    loss = CPCLoss(STEPS, DIM, HIDDEN, negatives, objective, score, group, learnable=learnable).double()
    assert loss.scored_at_once(6)
    ours = loss(given_latents)
    slow = list(loss.contrasts(given_latents))
    assert len(slow) == STEPS  # one by one
    per_step = torch.cat([found.loss.mean((1, 2)) for found in slow])
    correct = torch.cat([found.correct.double().mean((1, 2)) for found in slow])
    torch.testing.assert_close(ours.per_step, per_step)
    torch.testing.assert_close(ours.accuracy.double(), correct, rtol=0, atol=1e-6)
    others = (group - 1) * negatives.cross_weight if isinstance(negatives, All) else 0
    assert ours.ceiling == pytest.approx(math.log(9 * (1 + others)))
    inputs = (*given_latents, *loss.parameters())
    for a, b in zip(torch.autograd.grad(ours.loss, inputs), torch.autograd.grad(per_step.mean(), inputs), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("weight", [1.0, 0.7, 0.05])
def test_keys_of_other_windows_count_as_much_as_they_weigh(weight: float) -> None:
    """−log( e^p / (e^p + Σ_own e^n + w Σ_other e^n) ), summed up key by key; at chance ln of the sum of all weights."""
    given = latents(2, 6, torch.float64)
    loss = CPCLoss(2, DIM, HIDDEN, All(cross_weight=weight), score=Dot(0.5), group_size=2).double()
    terms = []
    for k in (1, 2):
        for s, t in ((s, t) for s in range(2) for t in range(4)):
            prediction = loss.heads.weight[k - 1] @ given.c[s, t]
            odds = {(r, u): math.exp(0.5 * float(prediction @ given.z[r, u])) for r in range(2) for u in range(6)}
            own = odds.pop((s, t + k))
            terms.append(-math.log(own / (own + sum(o if r == s else weight * o for (r, _), o in odds.items()))))
    found = loss(given)
    assert float(found.loss) == pytest.approx(sum(terms) / len(terms), rel=1e-9)
    still = loss(Latents(torch.zeros_like(given.z), given.c))
    assert float(still.loss) == pytest.approx(math.log(6 + 6 * weight)) == pytest.approx(still.ceiling)
    assert bool(torch.isfinite(found.bound).all()) == (weight == 1.0) == found.bounded


def test_weighed_negatives_need_an_objective_that_weighs() -> None:
    for objective in (Triplet(), NCE(), InfoNCE(concentration=1.0)):
        with pytest.raises(ValueError, match="leave it at 1"):
            CPCLoss(2, DIM, HIDDEN, All(cross_weight=0.5), objective)


def test_a_group_mean_across_windows_is_left_to_the_general_way() -> None:
    loss = CPCLoss(STEPS, DIM, HIDDEN, Within(), score=Cosine(0.1, centre="group"), group_size=2)
    assert loss.scored_at_once(4) is None
    assert loss(latents(4, 9, torch.float32)).loss > 0


class _Computing(TorchDispatchMode):
    """Counts ATen calls that compute; views and bookkeeping are free."""

    FREE = ("view", "expand", "t.", "transpose", "slice", "split", "detach", "unsqueeze", "as_strided", "permute",
            "select", "alias", "empty", "squeeze", "unbind", "_unsafe_view")  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.calls += not str(func).removeprefix("aten.").startswith(self.FREE)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        ([], 100),
        (["loss.negatives={kind: uniform, num_negatives: 128}", "loss.group_size=8"], 120),
        (["loss.negatives={kind: uniform, num_negatives: 128}", "loss.group_size=8", "loss.score={kind: dot}"], 120),
        (["loss.negatives={kind: hardest}", "loss.group_size=8"], 120),
        (["loss.objective={kind: triplet}", "loss.negatives={kind: all, cross_weight: 1}"], 120),
    ],
)
def test_a_loss_takes_few_kernels(changes: list[str], most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward at batch 8, in one chunk as on a GPU, which waits for every launch."""
    monkeypatch.setattr("cpc.losses.cpc.MOST_SCORES", {"cpu": 1 << 26})
    monkeypatch.setattr("cpc.losses.cpc.MOST_PICKED", {"cpu": 1 << 26})
    recipe = load_config("small", ["data.corpus=x", *changes])
    loss = CPCLoss.build(recipe.loss, 256, 256)
    z, c = (torch.randn(8, 128, 256, requires_grad=True) for _ in range(2))
    with _Computing() as counted:
        loss(Latents(z, c)).loss.backward()
    assert counted.calls <= most, counted.calls


@pytest.mark.parametrize(
    ("score", "negatives", "objective"),
    [
        (Dot(0.5), Hardest(4), InfoNCE()),
        (Cosine(0.2, centre="group"), SemiHard(0.5), Triplet(0.5)),
        (Cosine(0.2, centre="window"), Within(), NCE()),
        (NegativeDistance(), All(), PairMargin(1.0)),
        (NegativeDistance(), Hardest(3, within=True), Triplet(0.2)),
    ],
)
@pytest.mark.parametrize("group", [2, 3, 5])
def test_steps_scored_together_equal_them_one_by_one(
    score: Score, negatives: Negatives, objective: Objective, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss, accuracy, kinds of triplets and gradients, uneven groups (five windows) among them."""
    found = []
    for most in (1, 1 << 26):
        monkeypatch.setattr("cpc.losses.cpc.MOST_PICKED", {"cpu": most})
        torch.manual_seed(2)
        given_latents = latents(5, 9, torch.float64)
        loss = CPCLoss(STEPS, DIM, HIDDEN, negatives, objective, score, group).double()
        losses = loss(given_latents)
        gradients = torch.autograd.grad(losses.loss, (*given_latents, *loss.parameters()))
        kinds = losses.kinds if losses.kinds is not None else torch.zeros(3)
        found.append((losses.per_step.detach(), losses.accuracy, kinds, *gradients))
    assert [len(list(loss.contrasts(given_latents)))] == [1]
    for one_by_one, together in zip(*found, strict=True):
        torch.testing.assert_close(one_by_one, together)


@pytest.mark.parametrize("group", [2, 4, 8])
def test_a_share_draws_what_the_whole_batch_does(group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps scored together: a share, be it of whole groups or part of one, has the losses it has in the batch."""
    frames, whole = 8, latents(8, 8, torch.float64)
    monkeypatch.setattr("cpc.losses.cpc.MOST_PICKED", {"cpu": 2 * 8 * (frames - STEPS) * group * frames})
    loss, parts = criterion(group, torch.float64), []
    for part in range(2):
        with monkeypatch.context() as patch:
            patch.setattr("cpc.distributed.gather", partial(_neighbours, whole.z, part))
            own = Latents(whole.z[4 * part : 4 * part + 4], whole.c[4 * part : 4 * part + 4])
            parts.append(loss(own, torch.Generator().manual_seed(5), BatchShard(part, 2)).per_step)
    expected = loss(whole, torch.Generator().manual_seed(5)).per_step
    torch.testing.assert_close(torch.stack(parts).mean(0), expected, rtol=1e-10, atol=1e-10)


def _neighbours(whole: torch.Tensor, part: int, z: torch.Tensor, processes: int) -> torch.Tensor:
    """The keys of the group of processes that `part` is in, which all processes of it get in training."""
    size = processes * len(z)
    first = part * len(z) // size * size
    return whole[first : first + size]
