"""What can be taken from a model as features: z, c, a layer of the context network below c, or several side by side."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from cpc.config import InputError, dump
from cpc.model import CPC
from cpc.nn.pooling import Pooling

LayerName = str  # z, c, c1, c2 … (the context network's layers from below), or a sum such as z+c
Waveform = Float[Tensor, "batch sample"]
Lengths = Int[Tensor, " batch"]


@dataclass(frozen=True)
class Layer:
    """A layer of a CPC model as features. `origin` comes first in its name: "CPC z", "random c", "CPC z+c".

    `pooling`: how its frames become one vector where one is asked for, as it was trained; without it, their mean.
    Raises InputError for a layer that the model does not have.
    """

    model: CPC
    layer: LayerName
    origin: str = "CPC"
    pooling: Pooling | None = None

    def __post_init__(self) -> None:
        check_layer(self.model, self.layer)

    @property
    def name(self) -> str:
        return f"{self.origin} {self.layer}" + (", pooled" if self.pooling else "")

    @property
    def hop(self) -> int:
        return self.model.hop

    @property
    def sample_rate(self) -> int:
        return self.model.sample_rate

    @property
    def settings(self) -> Mapping[str, object]:
        facts = {"model": dump(self.model.config), "weights": _weights_digest(self.model), "layer": self.layer}
        return facts | ({"pooling": _weights_digest(self.pooling)} if self.pooling else {})

    def frames(self, n_samples: int) -> int:
        return self.model.frames(n_samples)

    def frame_centres(self, n_frames: int) -> Float64[np.ndarray, " frame"]:
        return self.model.frame_centres(n_frames)

    def __call__(self, waveform: Waveform, lengths: Lengths | None = None) -> Float[Tensor, "batch frame dim"]:
        return layers_of(self.model, waveform, lengths, [self.layer])[self.layer]


def check_layer(model: CPC, layer: LayerName) -> None:
    """Raise InputError unless every part of `layer` is one of the model's."""
    known = ["z", "c", *(f"c{number}" for number in range(1, model.context.depth + 1))]
    if unknown := [part for part in layer.split("+") if part not in known]:
        rule = f"the model has {', '.join(known)}, and sums of these such as z+c (side by side)"
        raise InputError(f"layer={layer}: {unknown[0] or 'an empty name'} is not a layer; {rule}")


def layers_of(
    model: CPC, waveform: Waveform, lengths: Lengths | None, layers: Sequence[LayerName]
) -> dict[LayerName, Float[Tensor, "batch frame _"]]:
    """Several layers from one pass over the audio: the encoder runs once, whatever is asked for."""
    latents = model(waveform, lengths)
    parts: dict[str, Tensor] = {"z": latents.z, "c": latents.c}
    for part in {part for layer in layers for part in layer.split("+")} - parts.keys():
        parts[part] = model.context.below(latents.z, int(part.removeprefix("c")))
    return {layer: torch.cat([parts[part] for part in layer.split("+")], dim=-1) for layer in layers}


def _weights_digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode() + weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
