"""What augmentations draw from a generator, and the precision that they compute in."""

import functools
from collections.abc import Callable
from typing import Annotated, Concatenate, NamedTuple, ParamSpec

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import AfterValidator, Field
from torch import Tensor

P = ParamSpec("P")


def _ordered(span: tuple[float, float]) -> tuple[float, float]:
    if not span[0] <= span[1]:
        raise ValueError("must be [lowest, highest], lowest first")
    return span


def _positive(span: tuple[float, float]) -> tuple[float, float]:
    if not _ordered(span)[0] > 0:
        raise ValueError("must be above 0")
    return span


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]  # [lowest, highest], drawn uniformly
PositiveRange = Annotated[tuple[float, float], AfterValidator(_positive)]
Share = Annotated[float, Field(ge=0, le=1)]  # of the examples that an augmentation is applied to


class Rows(NamedTuple):
    """The places of examples in a batch of `total`, of which others may be elsewhere, on other processes."""

    places: Int[np.ndarray, "example"]
    total: int


class BatchPart(NamedTuple):
    """A generator for some rows of a batch: it draws for all rows, so that an example is augmented in the same way
    however the batch is divided."""

    generator: torch.Generator
    rows: Rows


Source = torch.Generator | BatchPart


def uniform(span: tuple[float, float], waveform: Float[Tensor, "batch sample"], source: Source) -> Tensor:
    """One number of `span` for each example, on the device of the waveform."""
    return span[0] + (span[1] - span[0]) * fraction((), waveform, source)


def fraction(shape: tuple[int, ...], examples: Float[Tensor, "batch *rest"], source: Source) -> Tensor:
    """Numbers from 0 to 1, uniformly, for each example in this shape, on the device of the examples."""
    return _drawn(examples, source, lambda rows, own: torch.rand((rows, *shape), generator=own, device=own.device))


def normal(shape: tuple[int, ...], waveform: Float[Tensor, "batch sample"], source: Source) -> Tensor:
    """Standard normal numbers for each example, in this shape, on the device of the waveform."""
    return _drawn(waveform, source, lambda rows, own: torch.randn((rows, *shape), generator=own, device=own.device))


def integer(below: int, waveform: Float[Tensor, "batch sample"], source: Source) -> Tensor:
    """One of 0 … below − 1 for each example, on the device of the waveform."""
    return _drawn(waveform, source, lambda rows, own: torch.randint(below, (rows,), generator=own, device=own.device))


def _drawn(
    examples: Float[Tensor, "batch *rest"], source: Source, draw: Callable[[int, torch.Generator], Tensor]
) -> Tensor:
    if isinstance(source, torch.Generator):
        return draw(len(examples), source).to(examples.device)
    # Without `non_blocking` a GPU would have to finish everything before it.
    places = torch.from_numpy(source.rows.places).to(source.generator.device, non_blocking=True)
    return draw(source.rows.total, source.generator)[places].to(examples.device)


def sometimes(
    share: float,
    waveform: Float[Tensor, "batch sample"],
    changed: Float[Tensor, "batch sample"],
    source: Source,
) -> Float[Tensor, "batch sample"]:
    """`changed` for a share of the examples, drawn one by one, and `waveform` for the others."""
    if share == 1.0:
        return changed
    chosen = uniform((0.0, 1.0), waveform, source) < share
    return torch.where(chosen[:, None], changed, waveform)


def in_float32(function: Callable[Concatenate[Tensor, P], Tensor]) -> Callable[Concatenate[Tensor, P], Tensor]:
    """Compute in float32 (float64 stays), outside autocast, and give back the dtype of the waveform.

    Filters and Fourier transforms lose what they are for in half precision, and on the CPU do not exist in it.
    """

    @functools.wraps(function)
    def full(waveform: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        precise = torch.promote_types(waveform.dtype, torch.float32)
        with torch.autocast(waveform.device.type, enabled=False):
            return function(waveform.to(precise), *args, **kwargs).to(waveform.dtype)

    return full


def rms(waveform: Float[Tensor, "batch sample"]) -> Float[Tensor, "batch 1"]:
    """Root of the mean square of each example."""
    return waveform.square().mean(-1, keepdim=True).sqrt()


def ratio(above: Float[Tensor, "batch 1"], below: Float[Tensor, "batch 1"]) -> Float[Tensor, "batch 1"]:
    """above / below, and 0 where `below` is 0: silence stays silence instead of becoming NaN."""
    return torch.where(below > 0, above / torch.where(below > 0, below, 1.0), 0.0)
