"""Classical acoustic features as modules: the baselines that a learned representation has to beat.

Both front ends cut the waveform into Hann windows of 25 ms every 10 ms, without padding at either end, so
that n samples give 1 + ⌊(n − 400)/160⌋ frames and every frame sees real samples only. The periodic Hann
window is symmetric about its sample 200, and sample i spans [i, i + 1), so frame t is centred at
(160 t + 200.5)/16000 s: the frames of the phone labels of the CPC paper and the clock of `CPC`.
"""

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

SAMPLE_RATE = 16000
WINDOW = 400  # samples: 25 ms
HOP = 160  # samples: 10 ms
FFT = 512  # 31 Hz a bin, so that none of 80 mel bands is empty; 400 would leave the lowest ones without a bin
FLOOR = 1e-6  # power in a band; above the rounding noise of 16 bits, so that digital silence is like any other


class _MelFrontend(nn.Module):
    """Log mel bands and the geometry of their frames."""

    name: str
    dim: int
    hop = HOP
    sample_rate = SAMPLE_RATE

    def __init__(self, mels: int) -> None:
        super().__init__()
        from torchaudio.transforms import MelSpectrogram

        self.mels = mels
        self.spectrogram = MelSpectrogram(
            SAMPLE_RATE, n_fft=FFT, win_length=WINDOW, hop_length=HOP, n_mels=mels, center=False
        )

    @property
    def settings(self) -> Mapping[str, object]:
        """All that determines the features, for the key of a cached result."""
        return {"window": WINDOW, "hop": HOP, "fft": FFT, "floor": FLOOR, "mels": self.mels, "dim": self.dim}

    def frames(self, n_samples: int) -> int:
        """Number of frames of `n_samples` samples: those whose window lies wholly inside."""
        return max(0, 1 + (n_samples - WINDOW) // HOP)

    def frame_centres(self, n_frames: int) -> Float64[np.ndarray, " frame"]:
        """Time in seconds of the centre of each analysis window, counted from the start of the audio."""
        return (np.arange(n_frames) * HOP + WINDOW / 2 + 0.5) / SAMPLE_RATE

    def log_mel(self, waveform: Float[Tensor, "batch sample"]) -> Float[Tensor, "batch frame mel"]:
        """Natural logarithm of the power in each mel band, floored at `FLOOR`."""
        if self.frames(waveform.shape[1]) == 0:
            return waveform.new_zeros(len(waveform), 0, self.mels)
        # torch centres the window of 400 within 512 samples: 56 zeros on each side put frame t's window
        # back on sample 160 t.
        edge = (FFT - WINDOW) // 2
        power = self.spectrogram(nn.functional.pad(waveform, (edge, edge)))
        return cast(Tensor, power).clamp_min(FLOOR).log().transpose(1, 2)


class LogMel(_MelFrontend):
    """80 log mel bands.

    Shape: waveform (batch, sample) → (batch, frame, 80).
    """

    name = "log-mel"
    dim = 80

    def __init__(self) -> None:
        super().__init__(mels=self.dim)

    def forward(
        self, waveform: Float[Tensor, "batch sample"], lengths: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch frame 80"]:
        """Log mel bands; `lengths` (samples) changes nothing, for a frame sees only its own window."""
        return self.log_mel(waveform)


class MFCC39(_MelFrontend):
    """13 mel-frequency cepstral coefficients (the zeroth included) with their first and second differences.

    Differences are the regression slope over ±2 frames, edges replicated (Young et al., The HTK Book,
    section 5.9).

    Shape: waveform (batch, sample) → (batch, frame, 39).
    """

    name = "MFCC"
    dim = 39
    coefficients = 13

    def __init__(self) -> None:
        super().__init__(mels=40)
        from torchaudio.functional import create_dct

        self.cosines: Tensor
        self.register_buffer("cosines", create_dct(self.coefficients, self.mels, "ortho"), persistent=False)

    def forward(
        self, waveform: Float[Tensor, "batch sample"], lengths: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch frame 39"]:
        """Coefficients, slopes, slopes of slopes.

        With `lengths` (samples) the batch is padded; the frames below `frames(length)` then equal those of
        the utterance alone, because its last frame, not the padding, is what its slopes continue with.
        """
        cepstra = self.log_mel(waveform) @ self.cosines
        slopes = _slopes(self._hold_last(cepstra, lengths))
        bends = _slopes(self._hold_last(slopes, lengths))
        return torch.cat([cepstra, slopes, bends], dim=-1)

    def _hold_last(
        self, x: Float[Tensor, "batch frame dim"], lengths: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, "batch frame dim"]:
        """Repeat each utterance's last own frame over its padding."""
        if lengths is None or x.shape[1] == 0:
            return x
        last = torch.div(lengths.to(x.device) - WINDOW, HOP, rounding_mode="floor").clamp(0, x.shape[1] - 1)
        index = torch.minimum(torch.arange(x.shape[1], device=x.device), last[:, None])
        return x.gather(1, index[..., None].expand_as(x))


def _slopes(x: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch frame dim"]:
    if x.shape[1] == 0:
        return x
    from torchaudio.functional import compute_deltas

    return cast(Tensor, compute_deltas(x.transpose(1, 2), win_length=5)).transpose(1, 2)
