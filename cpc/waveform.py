"""Audio as tensors. Apart from `cpc.audio`, so that data preparation never loads torch."""

from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor

from cpc.audio import SAMPLE_RATE, decode


def read_audio(path: str | Path, sample_rate: int = SAMPLE_RATE) -> Float32[Tensor, " sample"]:
    """`decode` as a tensor: mono float32 in [-1, 1) at `sample_rate` Hz."""
    return torch.from_numpy(decode(path, sample_rate))
