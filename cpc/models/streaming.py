"""Latents of audio that arrives in chunks, live or from a file too long for memory: equal to those of the whole."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cpc.config import InputError
from cpc.models.context import State
from cpc.models.cpc import CPC, Latents
from cpc.models.encoder import BatchNorm, ChannelNorm, Encoder, convolve

_APART = (nn.Identity, ChannelNorm, BatchNorm)  # each frame apart from the others, once the model is in evaluation mode


class Stream:
    """Waveform in chunks of any size → the frames that became computable, each as soon as it did.

    All chunks' frames, joined, are what `model` gives for the whole waveform (to 1e-5 in float32, whatever the cuts):
    every convolution keeps the inputs that frames to come still need, and the context network goes on from its state.

        stream = cpc.stream(model)
        for chunk in microphone:        # (batch, sample), at model.sample_rate
            z, c = stream(chunk)        # (batch, frame, dim), (batch, frame, hidden); often no frame, or several
        z, c = stream.close()           # the frames that see the zero padding after the end

    Latency: a frame sees `model.receptive_field` samples and is given as soon as the last of them is there, with the
    default encoder 312 samples (19.5 ms) after the start of its hop. The first frame that sees nothing from before
    an onset is given at most receptive field + hop after it: 29.06 ms + 10 ms. `latency` has that in seconds; the
    length of the chunks and the time of the computation come on top.

    Args:
        model: in evaluation mode, as `cpc.load` gives it.

    Shape:
        chunk (batch, sample) → z (batch, frame, dim), c (batch, frame, hidden), with 0 frames or more.

    Raises:
        InputError: a frame of the model depends on frames to come, so that it cannot be streamed.
    """

    def __init__(self, model: CPC) -> None:
        _check(model)
        self.model = model
        self.frames = 0  # given so far; frame i is centred at model.frame_centres(i + 1)[i] seconds
        self.closed = False
        self._device = next(model.parameters()).device
        encoder = model.encoder
        parts = zip(encoder.convs, encoder.norms, encoder.rectified, strict=True)
        self._layers = [_Layer(conv, norm, rectified) for conv, norm, rectified in parts]
        self._batch: int | None = None
        self._state: State | None = None

    @property
    def latency(self) -> float:
        """Seconds from an onset to the first frame that sees nothing from before it, at most."""
        return (self.model.receptive_field + self.model.hop) / self.model.sample_rate

    def __call__(self, chunk: Float[Tensor, "batch sample"]) -> Latents:
        """The frames whose last sample lies in this chunk.

        Args:
            chunk: (batch, sample) in [−1, 1) at the model's sample rate, of any length.

        Returns:
            z (batch, frame, dim) and c (batch, frame, hidden), with 0 frames or more.

        Raises:
            InputError: the stream is closed, or the chunk is not (batch, sample) floats with the batch of the first.
        """
        if self._batch is None:
            self._batch = len(chunk)
        if chunk.ndim != 2 or not chunk.is_floating_point() or len(chunk) != self._batch:
            what = f"shape {tuple(chunk.shape)} and type {str(chunk.dtype).removeprefix('torch.')}"
            raise InputError(f"chunk: has {what}; must be floats in [-1, 1) of shape ({self._batch}, samples)")
        return self._advance(chunk.to(self._device), last=False)

    def close(self) -> Latents:
        """End the stream, which then takes no more chunks.

        Returns:
            The frames that see the zero padding after the end.
        """
        return self._advance(torch.zeros(self._batch or 1, 0, device=self._device), last=True)

    @torch.inference_mode()
    def _advance(self, chunk: Float[Tensor, "batch sample"], last: bool) -> Latents:
        if self.closed:
            raise InputError("stream: is closed; begin another with cpc.stream(model)")
        self.closed = last
        z = chunk[..., None]  # (batch, sample, 1)
        for layer in self._layers:
            z = layer(z, last)
        self.frames += z.shape[1]
        if z.shape[1] == 0:
            return Latents(z, z.new_zeros(len(z), 0, self.model.hidden))
        c, self._state = self.model.context.step(z, self._state)
        return Latents(z, c)


def stream(model: CPC) -> Stream:
    """A `Stream` of one model: call it with chunks of waveform, then `.close()` it.

    Args:
        model: in evaluation mode, as `cpc.load` gives it.

    Returns:
        the stream, at its beginning.

    >>> from cpc.models.cpc import ModelConfig, build
    >>> live = stream(build(ModelConfig()).eval())
    >>> [live(chunk).z.shape[1] for chunk in torch.zeros(1, 2000).split(500, dim=1)], live.close().z.shape[1]
    ([2, 3, 3, 3], 1)

    Raises:
        InputError: a frame of the model depends on frames to come, so that it cannot be streamed.
    """
    return Stream(model)


class _Layer:
    """A convolution with its norm and ReLU, and the inputs that outputs to come still need."""

    def __init__(self, conv: nn.Module, norm: nn.Module, rectified: bool) -> None:
        if not isinstance(conv, nn.Conv2d):
            raise TypeError(f"conv={type(conv).__name__}: must be Conv2d")
        self.conv, self.norm, self.rectified = conv, norm, rectified
        self.kernel, self.stride, self.padding = conv.kernel_size[1], conv.stride[1], int(conv.padding[1])
        self._kept: Tensor | None = None

    def __call__(self, x: Float[Tensor, "batch step channel"], last: bool) -> Float[Tensor, "batch frame dim"]:
        silence = x.new_zeros(len(x), self.padding, x.shape[2])
        x = torch.cat([silence if self._kept is None else self._kept, x, *([silence] if last else [])], dim=1)
        # Inputs between two windows (stride > kernel) are waited for, so that the next window begins at the first kept.
        reach = self.kernel if last else max(self.kernel, self.stride)
        count = max(0, (x.shape[1] - reach) // self.stride + 1)
        self._kept = x[:, count * self.stride :].clone()
        if count == 0:
            return x.new_zeros(len(x), 0, self.conv.out_channels)
        x = x[:, : (count - 1) * self.stride + self.kernel]
        found: Tensor = self.norm(convolve(x, self.conv, padding=0))
        return F.relu(found) if self.rectified else found


def _check(model: CPC) -> None:
    """Raise InputError unless each frame depends on its own samples and the past alone."""
    if model.training:
        rule = "is in training mode, where a norm or dropout may look at the whole batch; call model.eval() first"
        raise InputError(f"model: {rule}, as cpc.load does")
    if not isinstance(model.encoder, Encoder):
        raise InputError(f"model: its encoder {type(model.encoder).__name__} cannot be streamed; only `Encoder` can")
    if over_time := [norm for norm in model.encoder.norms if not isinstance(norm, _APART)]:
        rule = "may depend on frames to come; only norms none, channel and batch can be streamed"
        raise InputError(f"model.encoder.norm={type(over_time[0]).__name__}: {rule}")
