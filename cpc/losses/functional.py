"""The losses of the family on plain tensors: explicit (anchors, positives, negatives), two views, or labels.

Vectors are (n, dim); each function gives a scalar, the mean over the anchors that have a positive, or with
`reduction="none"` one loss an anchor (0 for those that have none). Scores and sums are in float32 at least.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cpc.device import upcast
from cpc.losses.objectives import NCE, InfoNCE, Mining, PairMargin, Triplet, logsumexp, of_kind
from cpc.losses.scores import Cosine, Dot, NegativeDistance, Score

Reduction = Literal["mean", "none"]
Similarity = Literal["cosine", "dot"]
Vectors = Float[Tensor, "anchor dim"]


def info_nce(
    anchors: Float[Tensor, "anchor dim"],
    positives: Float[Tensor, "anchor dim"],
    negatives: Float[Tensor, "*anchor negative dim"] | None = None,
    *,
    temperature: float = 0.1,
    similarity: Similarity = "cosine",
    concentration: float = 0.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, "*result"]:
    """−log( e^{s(a,p)/τ} / (e^{s(a,p)/τ} + Σ e^{s(a,n)/τ}) ) (van den Oord et al. 2018, eq. 4).

    At chance the loss is ln(1 + number of negatives).

    Args:
        anchors: vectors (anchor, dim).
        positives: the positive of each anchor (anchor, dim).
        negatives: (negative, dim), the same for all anchors; (anchor, negative, dim), each anchor's own; or None: the
            positives of the other anchors.
        temperature: τ, by which scores are divided.
        similarity: "cosine" or "dot".
        concentration: β, how much more hard negatives weigh (Robinson et al. 2021); 0 for alike.
        reduction: "mean", or "none" for one loss an anchor.

    Returns:
        the loss, () or (anchor).

    Raises:
        ValueError: shapes that do not fit, or a single anchor without negatives.

    >>> import torch, cpc
    >>> x = torch.eye(4)
    >>> cpc.info_nce(x, x).item() < 0.01                      # each is its own positive
    True
    >>> round(cpc.info_nce(x[:1], x[1:2], x[2:]).item(), 4)   # nothing is alike: ln 3
    1.0986
    """
    positive, negative, mask = _candidates(anchors, positives, negatives, _score(similarity))
    return _reduce(InfoNCE(temperature, concentration)(positive, negative, mask), None, reduction)


def nce(
    anchors: Float[Tensor, "anchor dim"],
    positives: Float[Tensor, "anchor dim"],
    negatives: Float[Tensor, "*anchor negative dim"] | None = None,
    *,
    temperature: float = 1.0,
    similarity: Similarity = "dot",
    log_kq: float = 0.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, "*result"]:
    """Logistic regression of data against noise (Gutmann & Hyvärinen 2010, eq. 8); see `cpc.NCE` for `log_kq`.

    Args:
        anchors: as for `info_nce`.
        positives: as for `info_nce`.
        negatives: as for `info_nce`.
        temperature: by which scores are divided.
        similarity: "dot" or "cosine".
        log_kq: ln(k q), which positives have to exceed.
        reduction: "mean", or "none" for one loss an anchor.

    Returns:
        the loss, () or (anchor).

    Raises:
        ValueError: as for `info_nce`.

    >>> import torch, cpc
    >>> zero = torch.zeros(1, 2)
    >>> round(cpc.nce(zero, zero, zero).item(), 4)            # two coins: 2 ln 2
    1.3863
    """
    positive, negative, mask = _candidates(anchors, positives, negatives, _score(similarity))
    return _reduce(NCE(log_kq)(positive / temperature, negative / temperature, mask), None, reduction)


def nt_xent(
    first: Float[Tensor, "anchor dim"],
    second: Float[Tensor, "anchor dim"],
    *,
    temperature: float = 0.5,
    reduction: Reduction = "mean",
) -> Float[Tensor, "*result"]:
    """The normalised, temperature-scaled cross-entropy of two views (Chen et al. 2020, SimCLR, eq. 1).

    Each of the 2n vectors is an anchor; its other view is the positive, the 2n − 2 others are the negatives.

    Args:
        first: one view (anchor, dim).
        second: the other view (anchor, dim).
        temperature: τ.
        reduction: "mean", or "none" for one loss a vector: those of `first`, then those of `second`.

    Returns:
        the loss, () or (2 · anchor).

    Raises:
        ValueError: shapes that differ.

    >>> import torch, cpc
    >>> views = torch.eye(3)
    >>> round(cpc.nt_xent(views, views).item(), 4)            # ln(1 + 4 e^{−2})
    0.4327
    """
    _same(first, second, "second")
    labels = torch.arange(len(first), device=first.device).repeat(2)
    return sup_con(torch.cat([first, second]), labels, temperature=temperature, reduction=reduction)


def sup_con(
    vectors: Float[Tensor, "anchor dim"],
    labels: Int[Tensor, "anchor"],
    *,
    temperature: float = 0.1,
    reduction: Reduction = "mean",
) -> Float[Tensor, "*result"]:
    """−1/|P| Σ_p log( e^{s(a,p)/τ} / Σ_{x ≠ a} e^{s(a,x)/τ} ): the same label is positive (Khosla et al. 2020, eq. 2).

    With every label twice it is `nt_xent`. Anchors whose label is theirs alone are skipped of the mean.

    Args:
        vectors: (anchor, dim).
        labels: whole numbers (anchor); a negative one is unknown.
        temperature: τ.
        reduction: "mean", or "none" for one loss an anchor.

    Returns:
        the loss, () or (anchor).

    >>> import torch, cpc
    >>> views = torch.eye(3).repeat(2, 1)
    >>> torch.equal(cpc.sup_con(views, torch.arange(3).repeat(2), temperature=0.5), cpc.nt_xent(views[:3], views[3:]))
    True
    """
    scores = upcast(Cosine(temperature)(vectors[None], vectors[None])[0])
    same, other = _pairs(labels, len(vectors))
    log_share = scores - logsumexp(scores, same | other)[:, None]
    count = same.sum(-1)
    loss = -log_share.masked_fill(~same, 0.0).sum(-1) / count.clamp_min(1)
    return _reduce(loss, count > 0, reduction)


def triplet(
    vectors: Float[Tensor, "anchor dim"],
    labels: Int[Tensor, "anchor"],
    *,
    margin: float = 0.2,
    mining: Mining = "all",
    squared: bool = False,
    unit: bool = True,
    reduction: Reduction = "mean",
) -> Float[Tensor, "*result"]:
    """max(0, d(a, p) − d(a, n) + margin) over the triplets of a batch (Schroff et al. 2015, eq. 2).

    The mean is over the triplets of a kind with a loss above 0 ("easy" ones have none by definition).

    Args:
        vectors: (anchor, dim).
        labels: whole numbers (anchor); a negative one is unknown.
        margin: by which a negative should be farther than a positive.
        mining: "all"; "hard": d(a, n) ≤ d(a, p); "semi_hard": d(a, p) < d(a, n) < d(a, p) + margin; "easy": farther.
        squared: squared distances.
        unit: vectors are brought to length 1 first.
        reduction: "mean", or "none": each anchor's sum over such triplets, divided by their number.

    Returns:
        the loss, () or (anchor).

    >>> import torch, cpc
    >>> apart = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    >>> cpc.triplet(apart, torch.tensor([0, 0, 1, 1])).item()
    0.0
    """
    scores = NegativeDistance(squared, unit)(vectors[None], vectors[None])[0]
    same, other = _pairs(labels, len(vectors))
    gap = scores[:, :, None] - scores[:, None, :]  # (anchor, positive, negative): d(a, n) − d(a, p)
    chosen = same[:, :, None] & other[:, None, :] & of_kind(gap.detach(), mining, margin)
    excess = (margin - gap).clamp_min(0).masked_fill(~chosen, 0.0)
    active = (excess > 0).sum((1, 2))
    if reduction == "mean":
        return excess.sum() / active.sum().clamp_min(1)
    return excess.sum((1, 2)) / active.clamp_min(1)


def triplet_kinds(
    vectors: Float[Tensor, "anchor dim"],
    labels: Int[Tensor, "anchor"],
    *,
    margin: float = 0.2,
    squared: bool = False,
    unit: bool = True,
) -> dict[Literal["hard", "semi_hard", "easy"], float]:
    """The share of each kind among the triplets of a batch: what mining has to choose from. NaN without triplets."""
    with torch.no_grad():
        scores = NegativeDistance(squared, unit)(vectors[None], vectors[None])[0]
        same, other = _pairs(labels, len(vectors))
        gap = (scores[:, :, None] - scores[:, None, :])[same[:, :, None] & other[:, None, :]]
        return {
            "hard": float(of_kind(gap, "hard", margin).float().mean()),
            "semi_hard": float(of_kind(gap, "semi_hard", margin).float().mean()),
            "easy": float(of_kind(gap, "easy", margin).float().mean()),
        }


def pair_margin(
    vectors: Float[Tensor, "anchor dim"],
    labels: Int[Tensor, "anchor"],
    *,
    margin: float = 1.0,
    unit: bool = True,
    reduction: Reduction = "mean",
) -> Float[Tensor, "*result"]:
    """y·D² + (1 − y)·max(0, margin − D)² over pairs (Hadsell, Chopra & LeCun 2006, eq. 4, twice).

    For each anchor the mean over the pairs of the same label plus the mean over the others, so that neither kind
    outweighs the other by number. Anchors without a positive count for their negatives alone.

    Args:
        vectors: (anchor, dim).
        labels: whole numbers (anchor); a negative one is unknown.
        margin: distance beyond which a negative pair costs nothing.
        unit: vectors are brought to length 1 first.
        reduction: "mean", or "none" for one loss an anchor.

    Returns:
        the loss, () or (anchor).

    >>> import torch, cpc
    >>> same = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> cpc.pair_margin(same, torch.tensor([0, 0])).item(), cpc.pair_margin(same, torch.tensor([0, 1])).item()
    (0.0, 1.0)
    """
    scores = NegativeDistance(unit=unit)(vectors[None], vectors[None])[0]
    same, other = _pairs(labels, len(vectors))
    near = PairMargin(margin).attract(scores).masked_fill(~same, 0.0).sum(-1) / same.sum(-1).clamp_min(1)
    return _reduce(near + PairMargin(margin).repel(scores, other), None, reduction)


def triplet_of(
    anchors: Float[Tensor, "anchor dim"],
    positives: Float[Tensor, "anchor dim"],
    negatives: Float[Tensor, "*anchor negative dim"] | None = None,
    *,
    margin: float = 0.2,
    squared: bool = False,
    unit: bool = True,
    reduction: Reduction = "mean",
) -> Float[Tensor, "*result"]:
    """`triplet` with explicit tensors; an anchor's loss is the mean over its negatives within the margin.

    Args:
        anchors: vectors (anchor, dim).
        positives: the positive of each anchor (anchor, dim).
        negatives: (negative, dim), the same for all anchors; (anchor, negative, dim), each anchor's own; or None: the
            positives of the other anchors.
        margin: by which a negative should be farther away than the positive.
        squared: distances are squared.
        unit: vectors are brought to length 1 first.
        reduction: "mean", or "none" for one loss an anchor.

    Returns:
        the loss, () or (anchor).

    Raises:
        ValueError: shapes that do not fit, or a single anchor without negatives.
    """
    found = _candidates(anchors, positives, negatives, NegativeDistance(squared, unit))
    return _reduce(Triplet(margin)(*found), None, reduction)


def _score(similarity: Similarity) -> Score:
    if similarity not in ("cosine", "dot"):
        raise ValueError(f"similarity={similarity}: must be cosine or dot")
    return Cosine(1.0) if similarity == "cosine" else Dot()


def _candidates(
    anchors: Vectors, positives: Vectors, negatives: Tensor | None, score: Score
) -> tuple[Float[Tensor, "anchor"], Float[Tensor, "anchor negative"], Bool[Tensor, "anchor negative"] | None]:
    """Scores of each anchor's positive and negatives."""
    _same(anchors, positives, "positives")
    if negatives is None:
        if len(anchors) < 2:
            raise ValueError("negatives=None: needs at least 2 anchors, whose positives are each other's negatives")
        scores = upcast(score(anchors[None], positives[None])[0])
        return scores.diagonal(), scores, ~torch.eye(len(anchors), dtype=torch.bool, device=anchors.device)
    own = upcast(score(anchors[:, None], positives[:, None])[:, 0, 0])
    if negatives.ndim == 2:
        return own, upcast(score(anchors[None], negatives[None])[0]), None
    return own, upcast(score(anchors[:, None], negatives)[:, 0]), None


def _same(first: Tensor, second: Tensor, name: str) -> None:
    if first.shape != second.shape:
        raise ValueError(f"{name}={tuple(second.shape)}: must have the anchors' shape {tuple(first.shape)}")


def _pairs(
    labels: Int[Tensor, "anchor"], count: int
) -> tuple[Bool[Tensor, "anchor anchor"], Bool[Tensor, "anchor anchor"]]:
    """Pairs of different vectors with the same label, and pairs with different labels."""
    if labels.shape != (count,):
        raise ValueError(f"labels={tuple(labels.shape)}: must be one whole number a vector, ({count},)")
    equal = labels[:, None] == labels[None]
    return equal & ~torch.eye(count, dtype=torch.bool, device=labels.device), ~equal


def _reduce(
    loss: Float[Tensor, "anchor"], valid: Bool[Tensor, "anchor"] | None, reduction: Reduction
) -> Float[Tensor, "*result"]:
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction={reduction}: must be mean or none")
    if valid is not None:
        loss = loss.masked_fill(~valid, 0.0)
    if reduction == "none":
        return loss
    return loss.mean() if valid is None else loss.sum() / valid.sum().clamp_min(1)
