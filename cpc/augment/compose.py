"""Chains of augmentations, and the two views of CPC: c from the past, what it has to predict from the future.

Kharitonov et al. 2020 (section 4) found it best to augment the past alone, with pitch, noise and reverberation.
"""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from cpc.augment.crop import Crop, TimeDropout
from cpc.augment.filters import BandRejection, LowPass
from cpc.augment.gain import Gain, PolarityInversion
from cpc.augment.noise import ColouredNoise, FolderNoise
from cpc.augment.parameters import BatchPart, Rows, Source
from cpc.augment.pitch import PitchShift, TimeStretch
from cpc.augment.reverb import MeasuredReverb, SyntheticReverb
from cpc.config import STRICT
from cpc.seeding import torch_generator

_Aligned = (
    Gain
    | PolarityInversion
    | ColouredNoise
    | FolderNoise
    | SyntheticReverb
    | MeasuredReverb
    | PitchShift
    | BandRejection
    | LowPass
) | TimeDropout
Aligned = Annotated[_Aligned, Field(discriminator="kind")]  # frame t stays frame t
Augmentation = Annotated[_Aligned | Crop | TimeStretch, Field(discriminator="kind")]


@dataclass(frozen=True, config=STRICT)
class AugmentConfig:
    """What happens to the past and to the future, in this order.

    `crop` and `tempo` are not among the choices: they move frames in time, and z_{t+k} of one view would no longer be
    k frames after c_t of the other.

    past: augmentations of the waveform that c is made from.
    future: augmentations of the waveform that is predicted.
    """

    past: tuple[Aligned, ...] = ()
    future: tuple[Aligned, ...] = ()


class Views(NamedTuple):
    """Two views of the same windows. Where neither is augmented they are one tensor."""

    past: Float[Tensor, "batch sample"]
    future: Float[Tensor, "batch sample"]


@torch.no_grad()
def augment(
    waveform: Float[Tensor, "batch sample"],
    chain: Sequence[_Aligned | Crop | TimeStretch],
    source: Source,
    sample_rate: int = 16000,
) -> Float[Tensor, "batch augmented"]:
    """The waveform after every augmentation of the chain; the waveform itself if the chain is empty."""
    for part in chain:
        waveform = part(waveform, source, sample_rate)
    return waveform


def views(
    waveform: Float[Tensor, "batch sample"],
    config: AugmentConfig,
    seed: int,
    step: int,
    rows: Rows | None = None,
    sample_rate: int = 16000,
) -> Views:
    """Past and future of a batch, each from a generator that depends on (seed, view, step) alone.

    `rows`: which examples of a larger batch these are; each is augmented as it would be with all of them here.

    `model(past, future=future)` makes Latents of them: c of the past, z of the future.
    """
    made = {}
    for name, chain in (("past", config.past), ("future", config.future)):
        generator = torch_generator(waveform.device, seed, "augment", name, step)
        made[name] = augment(waveform, chain, BatchPart(generator, rows) if rows else generator, sample_rate)
    return Views(**made)
