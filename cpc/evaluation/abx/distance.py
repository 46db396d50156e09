"""Distances between frames, of all frames of one stretch with all of another by one matrix product.

`angular` is the angle between two vectors as a share of a half turn, arccos(cosine)/π, the usual one for ABX
(Schatz 2016; ZeroSpeech and Libri-Light call it cosine). `euclidean` is the length of the difference. `kl` is the
Kullback-Leibler divergence, both ways, halved: for posteriorgrams.

The product is kept; what turns it into a distance is applied only to those of its values that are needed.
"""

import math
from typing import Literal, assert_never

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from cpc.config import InputError

Distance = Literal["angular", "euclidean", "kl"]
Rows = Float[Tensor, "row _"]
Columns = Float[Tensor, "column _"]
_FLOOR = 1e-6  # added to a probability before its logarithm, as fastabx does


def prepare(frames: Float[Tensor, "row dim"], distance: Distance) -> Rows:
    """What the product is made of. Raises InputError for values that the distance is not defined for."""
    if not bool(torch.isfinite(frames.sum())):  # one pass; a single value that is not finite is enough
        raise InputError("features: hold values that are not finite; train or extract them again")
    match distance:
        case "angular":
            return _directions(frames)
        case "euclidean":
            return frames.double()  # squares cancel: single precision would be coarse for near vectors
        case "kl":
            return _with_logarithms(frames)
        case _:
            assert_never(distance)


def product(x: Rows, y: Columns, distance: Distance, out: Float32[Tensor, "row column"]) -> None:
    """For prepared frames, into `out`: the cosine, the squared distance, or the divergence itself."""
    match distance:
        case "angular":
            torch.mm(x, y.T, out=out)
        case "euclidean":
            squares = x.square().sum(1)[:, None] + y.square().sum(1)
            out.copy_(torch.addmm(squares, x, y.T, alpha=-2))
        case "kl":
            (p, log_p), (q, log_q) = x.chunk(2, dim=1), y.chunk(2, dim=1)
            own = (p * log_p).sum(1)[:, None] + (q * log_q).sum(1)
            out.copy_((own - p @ log_q.T - log_p @ q.T) / 2)
        case _:
            assert_never(distance)


def finish(values: Float32[Tensor, "*shape"], distance: Distance) -> None:
    """Products become distances, in place."""
    match distance:
        case "angular":
            values.clamp_(-1, 1).acos_().div_(math.pi)
        case "euclidean":
            values.clamp_(min=0).sqrt_()
        case "kl":
            values.clamp_(min=0)
        case _:
            assert_never(distance)


def _directions(frames: Float[Tensor, "row dim"]) -> Rows:
    """Unit vectors. The zero vector, which has no direction, is at 0 from itself and at 1 from all others.

    Libri-Light's convention; it takes one dimension more, with which a zero vector's product with any other is −2
    and with itself beyond 1, and is added only where it is needed.
    """
    norms = frames.norm(dim=1, keepdim=True)
    zero = norms == 0
    unit: Rows = frames / norms.masked_fill(zero, 1)
    if not bool(zero.any()):
        return unit
    return torch.cat([unit, torch.where(zero, -2e6, 1e-6).to(unit)], dim=1)


def _with_logarithms(frames: Float[Tensor, "row dim"]) -> Rows:
    """Probabilities beside their logarithms, centred: it changes nothing and rounds less."""
    sums = frames.sum(1)
    if bool((frames < 0).any()) or not bool(((sums - 1).abs() < 1e-3).all()):
        raise InputError("distance=kl: features must be probabilities, each frame adding up to 1; take angular")
    logs = (frames + _FLOOR).log()
    return torch.cat([frames, logs - logs.mean(1, keepdim=True)], dim=1)
