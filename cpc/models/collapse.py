"""How vectors spread out: alignment, uniformity, effective rank, variance; and collapse, named where it happens."""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

PAIRED = 1024  # vectors whose pairs `uniformity` looks at: half a million pairs, 4 MiB
MEASURED = 2048  # vectors that `measure` looks at: 50 ms on one core for 256 dimensions
LayerName = Literal["z", "c"]


class Spread(NamedTuple):
    """How the vectors of one layer spread.

    uniformity: see `uniformity`. rank: see `effective_rank`. variation: the share of the mean square that is variance
    (0: every vector is the same). dead: the share of dimensions that do not vary. lowest, median, highest: variance of
    a dimension.
    """

    uniformity: float
    rank: float
    variation: float
    dead: float
    lowest: float
    median: float
    highest: float


def alignment(x: Float[Tensor, "pair dim"], y: Float[Tensor, "pair dim"]) -> float:
    """E ‖x/‖x‖ − y/‖y‖‖² over positive pairs: 0 if they point the same way, 2 if they are orthogonal, 4 at most.

    Wang & Isola 2020, equation 8 with α = 2. For CPC the pairs are a prediction W_k c_t and the z_{t+k} it is to find.
    """
    return float((F.normalize(x.float(), dim=-1) - F.normalize(y.float(), dim=-1)).square().sum(-1).mean())


def uniformity(x: Float[Tensor, "vector dim"]) -> float:
    """log E exp(−2 ‖x/‖x‖ − y/‖y‖‖²) over pairs of different vectors: 0 if all point the same way, lower is better.

    Wang & Isola 2020, equation 9 with t = 2; about −4 for directions drawn at random in many dimensions. At most
    `PAIRED` vectors, evenly spaced, are looked at. NaN for fewer than two.
    """
    x = F.normalize(_evenly(x.float(), PAIRED), dim=-1)
    if len(x) < 2:
        return math.nan
    squared = (2 - 2 * (x @ x.T)).clamp_min(0)
    pairs = len(x) * (len(x) - 1)
    return math.log(max((torch.exp(-2 * squared).sum().item() - len(x)) / pairs, 1e-300))


def effective_rank(x: Float[Tensor, "vector dim"]) -> float:
    """exp of the entropy of the normalised singular values of the centred vectors: how many directions are in use.

    Roy & Vetterli 2007, definition 1. Between 1 and min(vectors − 1, dimensions); 0 if the vectors do not vary.
    """
    return rank_of(spectrum(x))


def spectrum(x: Float[Tensor, "vector dim"]) -> Float[Tensor, " dim"]:
    """Variances along the principal axes, the largest first."""
    covariance = torch.cov(x.double().T, correction=0).reshape(x.shape[1], x.shape[1])
    variances: Tensor = torch.linalg.eigvalsh(covariance)
    return variances.flip(0).clamp_min(0)


def rank_of(variances: Float[Tensor, " dim"]) -> float:
    """The effective rank of vectors with these variances along their principal axes."""
    singular = variances.double().sqrt()
    total = singular.sum()
    if not total > 0:
        return 0.0
    share = singular / total
    return float(torch.exp(torch.special.entr(share).sum()))


def measure(x: Float[Tensor, "vector dim"]) -> Spread:
    """All of it for the vectors of one layer, of which at most `MEASURED`, evenly spaced, are looked at.

    Every number is NaN if a vector is not finite.
    """
    x = _evenly(x.double(), MEASURED)
    if not torch.isfinite(x).all():
        return Spread(*[math.nan] * len(Spread._fields))
    variances = x.var(0, correction=0)
    square = x.square().mean(0).sum().clamp_min(1e-300)
    dead = variances <= 1e-6 * variances.mean()
    ordered = variances.sort().values.tolist()
    return Spread(
        uniformity(x),
        effective_rank(x),
        float(variances.sum() / square),
        float(dead.double().mean()),
        ordered[0],
        ordered[len(ordered) // 2],
        ordered[-1],
    )


def _evenly(x: Float[Tensor, "vector dim"], most: int) -> Float[Tensor, "kept dim"]:
    return x[:: -(-len(x) // most)] if len(x) > most else x


# Below these a layer has collapsed. A trained CPC on speech has a variation of 0.6, half of its directions in use and
# hardly a dead dimension; untrained ones were seen with a variation down to 0.004 and 40% of dimensions dead.
LEAST_VARIATION, LEAST_RANK, MOST_DEAD = 1e-4, 0.02, 0.75
AT_CHANCE = 0.01  # of the ceiling: a bound below it means that nothing is predicted


def metrics(layer: LayerName, spread: Spread) -> dict[str, float]:
    """A layer's spread under the names of its curves in MLflow."""
    names = ("uniformity", "effective_rank", "variation", "dead", "variance/lowest", "variance/median")
    return {f"spread/{layer}/{k}": v for k, v in zip((*names, "variance/highest"), spread, strict=True)}


def collapse(layer: LayerName, spread: Spread, dim: int) -> str | None:
    """What is wrong with a layer of `dim` dimensions and what to try, or None; nothing is said about NaN."""
    if spread.variation < LEAST_VARIATION:
        return (
            f"{layer} has collapsed to one vector ({spread.variation:.1e} of its mean square is variance): try a lower "
            "optim.lr, a longer optim.warmup_steps, optim.max_grad_norm=1, or model.encoder.norm=channel"
        )
    if spread.dead > MOST_DEAD:
        return (
            f"{spread.dead:.0%} of the dimensions of {layer} are dead (they do not vary): try a lower optim.lr, a "
            "longer optim.warmup_steps, or model.encoder.norm=channel"
        )
    if spread.rank < max(2.0, LEAST_RANK * dim):
        return (
            f"{layer} has collapsed to {spread.rank:.1f} of {dim} directions (effective rank): try more negatives "
            "(loss.negatives.num_negatives), a larger data.batch_size, or a lower optim.lr"
        )
    return None


def chance(loss: float, ceiling: float) -> str | None:
    """What to try when the loss stays where it is without information, or None."""
    if loss <= (1 - AT_CHANCE) * ceiling:
        return None
    return (
        f"the loss is at chance ({loss:.3f}, ln(1 + M) = {ceiling:.3f}), so nothing is predicted yet: if it "
        "stays there, try a lower optim.lr, a longer optim.warmup_steps, another loss.score.scale (1/√dim is a good "
        "start), model.encoder.norm=channel, or listen whether the corpus is silent"
    )
