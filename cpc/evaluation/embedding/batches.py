"""Padded batches of waveforms of similar length: few shapes, and a bounded share of padding.

One waveform at a time is slow for two reasons: batches of one, and a new shape at nearly every call, for which the
convolutions are planned anew. Here lengths are rounded up to eight shapes an octave, k · 2^j with k = 8 … 15, so that
padding adds less than an eighth to the samples of all waveforms but those below `shortest`.
"""

import ctypes
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn


def rounded_up(samples: int, shortest: int) -> int:
    """The next of the lengths k · 2^j with k = 8 … 15, at least `shortest`: less than an eighth more."""
    samples = max(samples, shortest)
    step = 1 << (samples.bit_length() - 4)
    return -(-samples // step) * step


def batches(
    samples: Int64[np.ndarray, " piece"], shortest: int, batch_samples: int
) -> Iterator[tuple[Int64[np.ndarray, " batch"], int]]:
    """Places and padded length of each batch, longest first, where memory is at its highest.

    A batch holds at most `batch_samples` samples with its padding, or a single waveform.
    """
    padded = np.array([rounded_up(int(n), shortest) for n in samples], dtype=np.int64)
    for length in np.unique(padded)[::-1].tolist():
        places = np.flatnonzero(padded == length)
        size = max(1, batch_samples // length)
        yield from ((places[start : start + size], length) for start in range(0, len(places), size))


def pad(waves: Sequence[Float32[np.ndarray, " _"]], length: int) -> Float32[Tensor, "batch sample"]:
    """Waveforms of several lengths as the rows of one tensor, zeros behind each."""
    rows = torch.zeros(len(waves), length)
    for row, wave in zip(rows, waves, strict=True):
        row[: len(wave)] = torch.from_numpy(wave)
    return rows


def give_memory_back(device: torch.device) -> None:
    """Let malloc return what `keep_freed_memory` made it keep: holes of one batch's shape do not fit the next one's,
    and would add up to several times the memory of a batch.
    """
    if device.type == "cpu" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and the mode that was before afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
