"""Audio as tensors. Apart from `cpc.audio.decode`, so that data preparation never loads torch."""

import warnings
from contextlib import closing
from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor

from cpc.audio.decode import SAMPLE_RATE, Reader


def read_audio(path: str | Path, sample_rate: int = SAMPLE_RATE) -> Float32[Tensor, " sample"]:
    """Decode a file of audio to a tensor. Warns of one that is read though the length in its header is wrong.

    Args:
        path: a file that libsndfile reads (FLAC, WAV, Ogg, Opus, MP3, …), or a URL.
        sample_rate: Hz, to which audio of another rate is resampled.

    Returns:
        mono float32 in [−1, 1) (sample).

    Raises:
        Undecodable: no such file, or one that is not audio or damaged.
    """
    with closing(Reader(path)) as reader:
        if reader.note:
            warnings.warn(f"{path}: {reader.note}", stacklevel=2)
        return torch.from_numpy(reader.decode(sample_rate))
