"""CPC: an encoder and a context network, with the geometry of their frames."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from cpc.config import STRICT
from cpc.models.context import ContextConfig, GRUConfig, build_context
from cpc.models.encoder import Encoder, EncoderConfig
from cpc.seeding import derive


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    """An encoder, a context network, and the sample rate in Hz that they expect.

    encoder: the convolutions: waveform gives z.
    sample_rate: Hz of the audio.
    context: the autoregressive network: z up to t gives c_t.
    init: run folder, checkpoint or .pt file of CPC_audio whose weights training starts from; null for random ones.
    """

    encoder: EncoderConfig = Field(default_factory=EncoderConfig)
    context: ContextConfig = Field(default_factory=GRUConfig)
    sample_rate: int = Field(default=16000, ge=1)
    init: str | None = None


class Latents(NamedTuple):
    """What a model gives for a batch of waveforms.

    z: (batch, frame, dim): z_t, local and without memory.
    c: (batch, frame, hidden): c_t, which sums up z_1 … z_t.
    """

    z: Float[Tensor, "batch frame dim"]
    c: Float[Tensor, "batch frame hidden"]


class CPC(nn.Module):
    """Waveform → Latents(z, c) (van den Oord et al. 2018, section 2.2).

    Args:
        config: its settings. `build` makes one whose weights depend on a seed, `load` reads a trained one.

    Shape:
        waveform (batch, sample) in [−1, 1) at `sample_rate` → z (batch, frame, dim), c (batch, frame, hidden).
        With `lengths` (batch) in samples, a padded batch gives in its first `frames(length)` frames what each
        waveform gives alone; frames after that are to be ignored.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.sample_rate = config.sample_rate
        self.encoder = Encoder(config.encoder)
        self.context = build_context(config.context, self.encoder.dim)

    def forward(
        self,
        waveform: Float[Tensor, "batch sample"],
        lengths: Int[Tensor, "batch"] | None = None,
        future: Float[Tensor, "batch sample"] | None = None,
    ) -> Latents:
        """z and c of `waveform`; with `future`, another view of the same audio, c of `waveform` and z of `future`.

        With two views c_t is made from one and what it has to predict from the other (Kharitonov et al. 2020,
        section 3.2). Both go through the encoder together.

        Args:
            waveform: (batch, sample) in [−1, 1) at `sample_rate`.
            lengths: (batch) in samples, where waveforms are padded.
            future: (batch, sample), another view of the same audio.

        Returns:
            z (batch, frame, dim) and c (batch, frame, hidden).

        Raises:
            ValueError: a waveform that is too short for one frame, or views of different shapes.
        """
        if self.frames(waveform.shape[-1]) < 1:
            raise ValueError(
                f"waveform of {waveform.shape[-1]} samples: too short for one frame of "
                f"{self.receptive_field} samples; pad it or leave it out"
            )
        if future is None:
            z = self.encoder(waveform, lengths)
            return Latents(z, self.context(z))
        if future.shape != waveform.shape:
            raise ValueError(f"future={tuple(future.shape)}: must be of the shape {tuple(waveform.shape)} of the past")
        past, z = self.encoder(torch.cat([waveform, future]), None if lengths is None else lengths.repeat(2)).chunk(2)
        return Latents(z, self.context(past))

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return self.encoder.hop

    @property
    def receptive_field(self) -> int:
        """Samples that one z_t sees."""
        return self.encoder.receptive_field

    @property
    def dim(self) -> int:
        """Dimension of z."""
        return self.encoder.dim

    @property
    def hidden(self) -> int:
        """Dimension of c."""
        return self.config.context.hidden

    def frames(self, samples: int) -> int:
        """How many frames a waveform gives.

        Args:
            samples: of the waveform.

        Returns:
            the number of frames, 0 where it is too short for one.
        """
        return self.encoder.frames(samples)

    def frame_centres(self, frames: int) -> Float[np.ndarray, "frame"]:
        """Where frames are in time; labels belong to the frame whose centre they cover.

        Args:
            frames: how many, from the first one.

        Returns:
            the centre of each frame in seconds (frame).
        """
        return self.encoder.frame_centres(frames) / self.sample_rate


def build(config: ModelConfig, seed: int = 0) -> CPC:
    """A CPC with random weights that depend on the seed alone.

    Args:
        config: its settings.
        seed: of the weights.

    Returns:
        the model, on the CPU and in training mode.

    >>> model = build(ModelConfig())
    >>> model.hop, model.receptive_field, model.frames(20480)      # samples, samples, frames
    (160, 465, 128)
    >>> z, c = model(torch.zeros(1, 20480))
    >>> tuple(z.shape), tuple(c.shape)
    ((1, 128, 512), (1, 128, 256))
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "model"))
        return CPC(config)
