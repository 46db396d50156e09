"""Audio as tensors. Apart from `cpc.audio.decode`, so that data preparation never loads torch."""

import warnings
from contextlib import closing
from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor

from cpc.audio.decode import SAMPLE_RATE, Reader


def read_audio(path: str | Path, sample_rate: int = SAMPLE_RATE) -> Float32[Tensor, " sample"]:
    """`cpc.audio.decode` as a tensor: mono float32 in [-1, 1) at `sample_rate` Hz.

    Warns of a file that is read though the length in its header is wrong.
    """
    with closing(Reader(path)) as reader:
        if reader.note:
            warnings.warn(f"{path}: {reader.note}", stacklevel=2)
        return torch.from_numpy(reader.decode(sample_rate))
