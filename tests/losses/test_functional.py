"""The losses on plain tensors equal loops over their formulas, and the losses of another library."""

import math
from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from pytorch_metric_learning import distances, losses, reducers
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, triplet_margin_loss

import cpc
from cpc.losses.functional import triplet_kinds


def vectors(n: int, dim: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def assert_agree(mine: Tensor, theirs: Tensor, *inputs: Tensor) -> None:
    """Equal values and equal gradients."""
    torch.testing.assert_close(mine, theirs)
    for a, b in zip(torch.autograd.grad(mine, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_info_nce_with_each_anchors_own_negatives_is_a_cross_entropy() -> None:
    a, p, n = vectors(4), vectors(4, seed=1), vectors(12, seed=2)
    own = n.view(4, 3, 5)
    keys = normalize(torch.cat([p[:, None], own], dim=1), dim=-1)
    logits = torch.einsum("ad,akd->ak", normalize(a, dim=-1), keys) / 0.2
    assert_agree(
        cpc.info_nce(a, p, own, temperature=0.2), cross_entropy(logits, torch.zeros(4, dtype=torch.long)), a, p, n
    )


def test_info_nce_with_shared_negatives() -> None:
    a, p, n = vectors(4), vectors(4, seed=1), vectors(6, seed=2)
    logits = torch.cat([(a * p).sum(-1, keepdim=True), a @ n.T], dim=1) / 0.5
    mine = cpc.info_nce(a, p, n, temperature=0.5, similarity="dot")
    assert_agree(mine, cross_entropy(logits, torch.zeros(4, dtype=torch.long)), a, p, n)


def test_info_nce_within_the_batch() -> None:
    a, p = vectors(6), vectors(6, seed=1)
    logits = normalize(a, dim=-1) @ normalize(p, dim=-1).T / 0.1
    assert_agree(cpc.info_nce(a, p), cross_entropy(logits, torch.arange(6)), a, p)


def test_nt_xent_equals_another_librarys() -> None:
    a, b = vectors(5), vectors(5, seed=1)
    theirs = losses.NTXentLoss(temperature=0.3)(torch.cat([a, b]), torch.arange(5).repeat(2))
    assert_agree(cpc.nt_xent(a, b, temperature=0.3), theirs, a, b)


def test_sup_con_equals_another_librarys_and_is_nt_xent_for_labels_in_twos() -> None:
    x, labels = vectors(9), torch.tensor([0, 0, 1, 1, 1, 2, 2, 3, 0])
    # theirs sums over e^s of positives and negatives of an anchor as well: Khosla et al. 2020, eq. 2
    mask = labels != 3  # its label is its own alone: left out of both means, but a negative of the others
    theirs = losses.SupConLoss(temperature=0.2)(x, labels)
    assert_agree(cpc.sup_con(x, labels, temperature=0.2), theirs, x)
    assert cpc.sup_con(x, labels, reduction="none")[~mask].item() == 0
    a, b = vectors(4), vectors(4, seed=1)
    twice = cpc.sup_con(torch.cat([a, b]), torch.arange(4).repeat(2), temperature=0.5)
    assert_agree(cpc.nt_xent(a, b), twice, a, b)


@pytest.mark.parametrize("squared", [False, True])
def test_triplets_of_a_batch_equal_another_librarys(squared: bool) -> None:
    x, labels = vectors(8), torch.tensor([0, 0, 1, 1, 1, 2, 2, 3])
    distance = distances.LpDistance(normalize_embeddings=True, p=2, power=2 if squared else 1)
    theirs = losses.TripletMarginLoss(margin=0.3, distance=distance, reducer=reducers.AvgNonZeroReducer())(x, labels)
    assert_agree(cpc.triplet(x, labels, margin=0.3, squared=squared), theirs, x)


def test_explicit_triplets_equal_torchs() -> None:
    a, p, n = vectors(6), vectors(6, seed=1), vectors(6, seed=2)
    mine = cpc.triplet_of(a, p, n[:, None], margin=1.0, unit=False, reduction="none")
    theirs = triplet_margin_loss(a, p, n, margin=1.0, eps=0.0, reduction="none")
    assert_agree(mine.sum(), theirs.sum(), a, p, n)


@pytest.mark.parametrize("mining", ["all", "hard", "semi_hard", "easy"])
def test_triplets_by_kind_equal_a_loop(mining: str) -> None:
    x, labels, margin = vectors(7).detach(), [0, 0, 0, 1, 1, 2, 2], 0.4
    unit = [row / row.norm() for row in x]
    terms, kinds = [], {"hard": 0, "semi_hard": 0, "easy": 0}
    for a in range(7):
        for p in range(7):
            for n in range(7):
                if a == p or labels[a] != labels[p] or labels[a] == labels[n]:
                    continue
                near, far = float((unit[a] - unit[p]).norm()), float((unit[a] - unit[n]).norm())
                kind = "hard" if far <= near else "semi_hard" if far < near + margin else "easy"
                kinds[kind] += 1
                if mining in ("all", kind) and near - far + margin > 0:
                    terms.append(near - far + margin)
    loss = cpc.triplet(x, torch.tensor(labels), margin=margin, mining=mining)  # type: ignore[arg-type]
    assert float(loss) == pytest.approx(sum(terms) / max(len(terms), 1))
    total = sum(kinds.values())
    shares = triplet_kinds(x, torch.tensor(labels), margin=margin)
    assert shares == pytest.approx({kind: count / total for kind, count in kinds.items()})


def test_pair_margin_equals_a_loop() -> None:
    x, labels = vectors(6).detach(), [0, 0, 0, 1, 1, 2]
    unit = [row / row.norm() for row in x]
    terms = []
    for a in range(6):
        near = [float((unit[a] - unit[b]).norm()) for b in range(6) if b != a and labels[a] == labels[b]]
        far = [float((unit[a] - unit[b]).norm()) for b in range(6) if labels[a] != labels[b]]
        terms.append(
            sum(d**2 for d in near) / max(len(near), 1) + sum(max(0, 1.1 - d) ** 2 for d in far) / max(len(far), 1)
        )
    assert float(cpc.pair_margin(x, torch.tensor(labels), margin=1.1)) == pytest.approx(sum(terms) / 6)


def test_nce_equals_a_binary_cross_entropy() -> None:
    a, p, n = vectors(3), vectors(3, seed=1), vectors(4, seed=2)
    scores = torch.cat([(a * p).sum(-1, keepdim=True), a @ n.T], dim=1) + 0.7
    target = torch.zeros_like(scores)
    target[:, 0] = 1
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(scores, target, reduction="none").sum(-1).mean()
    assert_agree(cpc.nce(a, p, n, log_kq=-0.7), theirs, a, p, n)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_float32_losses_without_overflow(dtype: torch.dtype) -> None:
    a, b = (vectors(8, seed=s).detach().to(dtype) * 20 for s in (0, 1))
    labels = torch.arange(4).repeat(2)
    for loss in (
        cpc.info_nce(a, b, temperature=0.01),
        cpc.nt_xent(a, b, temperature=0.01),
        cpc.sup_con(a, labels, temperature=0.01),
        cpc.triplet(a, labels),
        cpc.pair_margin(a, labels),
        cpc.nce(a, b, similarity="cosine"),
    ):
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss)


def test_a_batch_without_positives_has_no_loss_and_no_nan() -> None:
    x, labels = vectors(4), torch.arange(4)
    for loss in (cpc.sup_con(x, labels), cpc.triplet(x, labels)):
        assert loss.item() == 0
        assert torch.isfinite(torch.autograd.grad(loss, x)[0]).all()
    same = torch.zeros(4, dtype=torch.long)
    assert cpc.triplet(x, same).item() == 0
    assert math.isfinite(cpc.sup_con(x, same).item())


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As a user meets it: without the tests' own check of shapes."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_mistakes_are_named(unchecked: None) -> None:
    x = vectors(3)
    with pytest.raises(ValueError, match=r"positives=\(2, 5\)"):
        cpc.info_nce(x, vectors(2))
    with pytest.raises(ValueError, match="at least 2 anchors"):
        cpc.info_nce(vectors(1), vectors(1))
    with pytest.raises(ValueError, match="labels="):
        cpc.sup_con(x, torch.arange(2))
