"""The strided convolutional encoder: waveform → z, one vector every 10 ms (van den Oord 2018, section 3.1).

The computation is time-major (channels last): on 2 CPU cores in bf16 that halves its cost, because a layer norm
over contiguous channels is cheap and the convolutions become plain matrix products.
"""

from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from cpc.config import STRICT

NormName = Literal["none", "channel", "channel_unbiased", "batch"]
Positive = Annotated[int, Field(ge=1)]
Padding = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, config=STRICT)
class EncoderConfig:
    """Geometry of the encoder; the defaults give a hop of 160 samples and a receptive field of 465.

    channels: of every layer, or one number a layer. The first two layers see the longest sequences: with 32 and 64
        channels there and 256 at the end a step costs a fourteenth of 256 throughout (docs/representation.md).
    output: "relu", or "linear": no ReLU after the last layer, so that z can point anywhere (docs/representation.md).

    kernels: samples that each layer sees, in frames of the layer before.
    strides: steps of each layer; their product is the hop, 160 samples.
    padding: zeros at both ends of each layer.
    norm: after each convolution: none, over the channels of a frame (channel; channel_unbiased divides by the unbiased
        variance, as CPC_audio does), or over batch and time (batch).
    bias: whether convolutions add a constant.
    """

    channels: Positive | tuple[Positive, ...] = 512
    kernels: tuple[Positive, ...] = (10, 8, 4, 4, 4)
    strides: tuple[Positive, ...] = (5, 4, 2, 2, 2)
    padding: tuple[Padding, ...] = (3, 2, 1, 1, 1)
    norm: NormName = "none"
    bias: bool = True
    output: Literal["relu", "linear"] = "relu"

    @model_validator(mode="after")
    def _same_length(self) -> "EncoderConfig":
        if not len(self.kernels) == len(self.strides) == len(self.padding) > 0:
            raise ValueError("kernels, strides and padding must have one entry a layer each")
        if isinstance(self.channels, tuple) and len(self.channels) != len(self.kernels):
            raise ValueError(
                f"channels={list(self.channels)}: must be one number, or one for each of the {len(self.kernels)} layers"
            )
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """The channels of each layer."""
        return self.channels if isinstance(self.channels, tuple) else (self.channels,) * len(self.kernels)


class ChannelNorm(nn.LayerNorm):
    """Normalises each frame over its channels (Rivière et al. 2020, section 3), apart from its batch and its past.

    The type stays that of the input, its statistics are float32 in any case: on a GPU autocast would make the longest
    sequences of all float32, and the layers after it move twice the bytes.

    `unbiased`: by the variance over C − 1 channels instead of C, as CPC_audio has it. With v the variance over C,
    (x − m) / √(v C/(C−1) + ε) = √((C−1)/C) (x − m) / √(v + ε (C−1)/C): a layer norm of another gain and ε.
    """

    def __init__(self, channels: int, unbiased: bool = False) -> None:
        super().__init__(channels)
        self.shrink = (channels - 1) / channels if unbiased and channels > 1 else 1.0

    @property
    def gain(self) -> Float[Tensor, "dim"]:
        """The factor of each channel after dividing by the variance over C."""
        return self.weight if self.shrink == 1.0 else self.weight * self.shrink**0.5

    @property
    def eps_of_biased(self) -> float:
        """What is added to the variance over C."""
        return float(self.eps * self.shrink)

    def forward(self, input: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch frame dim"]:
        if input.device.type == "cpu" and self.shrink == 1.0:  # takes weights of another type
            return super().forward(input)
        gain, shift = self.gain.to(input.dtype), self.bias.to(input.dtype)
        with torch.autocast(input.device.type, enabled=False):
            return F.layer_norm(input, self.normalized_shape, gain, shift, self.eps_of_biased)


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of channels-last frames, over batch and time."""

    def forward(self, input: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch frame dim"]:
        return rearrange(super().forward(rearrange(input, "b t d -> b d t")), "b d t -> b t d")


class Encoder(nn.Module):
    """Convolution, norm and ReLU, layer after layer.

    Shape:
        waveform (batch, sample) → z (batch, frame, channels of the last layer), with `frames(sample)` frames.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        channels = (1, *config.widths)
        shapes = zip(channels, channels[1:], config.kernels, config.strides, config.padding, strict=False)
        # Conv2d over a height of 1: only the two-dimensional kernels have a channels-last path.
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, (1, k), (1, s), (0, p), bias=config.bias) for i, o, k, s, p in shapes
        )
        self.norms = nn.ModuleList(_norm(config.norm, width) for width in config.widths)

    def forward(
        self, waveform: Float[Tensor, "batch sample"], lengths: Int[Tensor, "batch"] | None = None
    ) -> Float[Tensor, "batch frame dim"]:
        x = waveform[..., None]  # (batch, sample, 1)
        for conv, norm, act, (kernel, stride, padding) in zip(
            self.convs, self.norms, self.rectified, self._layers(), strict=True
        ):
            x = norm(convolve(x, conv, padding))
            x = F.relu_(x) if act else x
            if lengths is not None:
                lengths = (lengths + 2 * padding - kernel) // stride + 1
                x = _silence_after(x, lengths)
        return x

    @property
    def rectified(self) -> list[bool]:
        """Whether a ReLU follows each layer."""
        return [True] * (len(self.convs) - 1) + [self.config.output == "relu"]

    def frames(self, samples: int) -> int:
        """Number of frames for so many samples (0 where they are too few)."""
        for kernel, stride, padding in self._layers():
            samples = max(0, (samples + 2 * padding - kernel) // stride + 1)
        return samples

    def frame_centres(self, frames: int) -> Float[np.ndarray, "frame"]:
        """Centre of each frame's receptive field, in samples on the continuous axis where sample i spans [i, i + 1)."""
        centre, jump = 0.5, 1
        for kernel, stride, padding in self._layers():
            centre += ((kernel - 1) / 2 - padding) * jump
            jump *= stride
        return centre + jump * np.arange(frames, dtype=np.float64)

    @property
    def dim(self) -> int:
        return self.config.widths[-1]

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        return int(np.prod(self.config.strides))

    @property
    def receptive_field(self) -> int:
        """Samples that one frame sees."""
        field, jump = 1, 1
        for kernel, stride, _ in self._layers():
            field += (kernel - 1) * jump
            jump *= stride
        return field

    def _layers(self) -> list[tuple[int, int, int]]:
        return list(zip(self.config.kernels, self.config.strides, self.config.padding, strict=True))


def convolve(x: Float[Tensor, "batch step channel"], conv: nn.Module, padding: int) -> Float[Tensor, "batch frame dim"]:
    """A strided convolution over time, with `padding` zeros at both ends; whatever the module itself would pad.

    Of a single channel, the waveform, it is the product of its windows and the kernels. The convolutions of torch give
    one channel's result channels first, and then norm, ReLU and their gradients, over the longest sequences of all,
    have to turn it.
    """
    if not isinstance(conv, nn.Conv2d):
        raise TypeError(f"conv={type(conv).__name__}: must be Conv2d")
    (_, kernel), (_, stride) = conv.kernel_size, conv.stride
    if conv.in_channels == 1:
        windows = F.pad(x[..., 0], (padding, padding)).unfold(1, kernel, stride).flatten(0, 1)
        # In this order their gradient is a product with few rows; with few columns it would take six times longer.
        kernels = rearrange(conv.weight, "d 1 1 k -> k d").contiguous()
        found = windows @ kernels if conv.bias is None else torch.addmm(conv.bias, windows, kernels)
        return rearrange(found, "(b t) d -> b t d", b=len(x))
    x = rearrange(x, "b t d -> b d 1 t").contiguous(memory_format=torch.channels_last)
    return rearrange(F.conv2d(x, conv.weight, conv.bias, (1, stride), (0, padding)), "b d 1 t -> b t d")


def _norm(kind: NormName, channels: int) -> nn.Module:
    match kind:
        case "none":
            return nn.Identity()
        case "channel" | "channel_unbiased":
            return ChannelNorm(channels, unbiased=kind == "channel_unbiased")
        case "batch":
            return BatchNorm(channels)


def _silence_after(
    x: Float[Tensor, "batch frame dim"], lengths: Int[Tensor, "batch"]
) -> Float[Tensor, "batch frame dim"]:
    """Zero the frames past each length, so that the next layer sees the zero padding it would see alone."""
    inside = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    return x * inside[..., None]
