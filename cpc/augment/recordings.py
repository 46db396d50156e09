"""Noise and impulse responses from folders of audio, decoded once and kept on the device."""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int16
from torch import Tensor

from cpc.audio.decode import decode, find_audio, to_int16
from cpc.augment.parameters import Source, integer
from cpc.config import InputError
from cpc.seeding import numpy_generator


class Recordings(NamedTuple):
    """Recordings one after the other; number i is samples[ends[i] − lengths[i] : ends[i]]."""

    samples: Int16[Tensor, "sample"]
    lengths: Int[Tensor, "recording"]
    ends: Int[Tensor, "recording"]


def fingerprint(folder: str) -> str:
    """A hash of the names and the sizes of all audio below `folder`: what a run's randomness also depends on."""
    root, found = Path(folder), hashlib.sha256()
    for file in find_audio(folder):
        found.update(f"{file.relative_to(root).as_posix()}\t{file.stat().st_size}\n".encode())
    return found.hexdigest()[:16]


@lru_cache(maxsize=8)
def recordings(folder: str, sample_rate: int, hours: float, device: str) -> Recordings:
    """At most so many hours of the audio below `folder`; which files come first depends on their names alone.

    Raises:
        InputError: there is no such folder, it holds no audio, or a file cannot be decoded.
    """
    files = find_audio(folder)
    room = round(hours * 3600 * sample_rate)
    waves: list[Int16[np.ndarray, sample]] = []
    for number in numpy_generator(0, "recordings").permutation(len(files)):
        if room <= 0:
            break
        waves.append(to_int16(decode(files[number], sample_rate))[:room])
        room -= len(waves[-1])
    lengths = torch.tensor([len(wave) for wave in waves], device=device)
    return Recordings(torch.from_numpy(np.concatenate(waves)).to(device), lengths, lengths.cumsum(0))


def excerpts(
    stock: Recordings, waveform: Float[Tensor, "batch sample"], source: Source
) -> Float[Tensor, "batch sample"]:
    """A random place of a recording for each example, each second of sound as likely as any other.

    A recording that ends too soon goes on from its beginning: no excerpt runs from one recording into the next.
    """
    total = len(stock.samples)
    place = integer(total, waveform, source)
    which = torch.searchsorted(stock.ends, place, right=True)
    length, end = stock.lengths[which, None], stock.ends[which, None]
    first = end - length
    index = first + (place[:, None] - first + torch.arange(waveform.shape[1], device=waveform.device)) % length
    return stock.samples[index].to(torch.float32) / 32768


@lru_cache(maxsize=8)
def responses(folder: str, sample_rate: int, seconds: float, device: str) -> Float[Tensor, "response tap"]:
    """Every impulse response below `folder`, from its direct sound (its highest peak, brought to 1) on.

    Raises:
        InputError: there is no such folder, it holds no audio, or a file cannot be decoded or is silent.
    """
    taps = max(1, round(seconds * sample_rate))
    files = find_audio(folder)
    found = torch.zeros(len(files), taps)
    for row, file in zip(found, files, strict=True):
        wave = torch.from_numpy(decode(file, sample_rate))
        peak = int(wave.abs().argmax())
        if wave[peak] == 0:
            raise InputError(f"{file}: silent, so it is no impulse response; remove it")
        kept = wave[peak : peak + taps] / wave[peak]
        row[: len(kept)] = kept
    return found.to(device)
