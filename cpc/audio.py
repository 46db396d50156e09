"""Audio files: find them, measure them, decode them to mono at one sample rate."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int16
from numpy import ndarray
from torch import Tensor

from cpc.config import InputError

SAMPLE_RATE = 16000
SUFFIXES = frozenset(
    (".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp3", ".nist", ".oga", ".ogg", ".opus", ".rf64")
) | {".snd", ".sph", ".w64", ".wav"}
_BLOCK = 1 << 20  # frames a read: a wrong length in a header can then never ask for absurd memory


class AudioInfo(NamedTuple):
    """What a file's header says: samples of each channel, Hz, channels."""

    samples: int
    sample_rate: int
    channels: int


class Undecodable(InputError):
    """A file that gives no usable audio. `.path` names the file, `.reason` says why (without the path)."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason


def find_audio(root: str | Path) -> list[Path]:
    """Every audio file below `root` (known suffixes in any case, hidden names left out), sorted by path.

    Linked folders are followed, each real folder once. `root` may also be one file, whatever its suffix.
    Raises InputError if `root` does not exist or holds no audio.
    """
    root = Path(root)
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise InputError(f"audio={root}: no such file or folder; give a folder of audio or one audio file")
    found = sorted(_walk(root), key=lambda path: path.as_posix())
    if not found:
        raise InputError(f"audio={root}: holds no audio; files must end in one of {', '.join(sorted(SUFFIXES))}")
    return found


def _walk(root: Path) -> list[Path]:
    found, seen = [], set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back to a folder above would never end
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        found += [Path(folder, name) for name in names if _is_audio(name)]
    return found


def _is_audio(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122


def probe(path: str | Path) -> AudioInfo:
    """Length, rate and channels from the header alone. Raises Undecodable."""
    import soundfile

    try:
        info = soundfile.info(str(path))
    except (RuntimeError, OSError, TypeError) as error:
        raise Undecodable(path, _reason(path, error)) from error
    return AudioInfo(info.frames, info.samplerate, info.channels)


def decode(path: str | Path, sample_rate: int = SAMPLE_RATE) -> Float32[ndarray, " sample"]:
    """Decode a file to mono float32 at `sample_rate` Hz; full scale is [-1, 1).

    Channels are averaged; another rate is resampled (soxr, high quality). What was int16 in the file at
    `sample_rate` comes back exactly: sample / 32768. Raises Undecodable for a file that cannot be decoded,
    is empty, or holds NaN or infinity.
    """
    samples, file_rate = _read_mono(path)
    if not len(samples):
        raise Undecodable(path, "empty: no samples")
    if not np.isfinite(samples).all():
        raise Undecodable(path, f"{np.count_nonzero(~np.isfinite(samples))} samples are NaN or infinite")
    return resample(samples, file_rate, sample_rate)


def resample(samples: Float32[ndarray, " sample"], from_rate: int, to_rate: int) -> Float32[ndarray, " resampled"]:
    """Samples at `from_rate` Hz as ceil(len · to_rate / from_rate) samples at `to_rate` Hz (soxr, high quality)."""
    if from_rate == to_rate:
        return samples
    import librosa

    resampled = librosa.resample(samples, orig_sr=from_rate, target_sr=to_rate, res_type="soxr_hq")
    return np.asarray(resampled, dtype=np.float32)


def write_flac(path: str | Path, samples: Int16[ndarray, " sample"], sample_rate: int = SAMPLE_RATE) -> None:
    """Write mono FLAC, 16 bits, at the fastest compression level. Not atomic: the caller renames."""
    import soundfile

    soundfile.write(str(path), samples, sample_rate, format="FLAC", subtype="PCM_16", compression_level=0)


def _read_mono(path: str | Path) -> tuple[Float32[ndarray, " sample"], int]:
    import soundfile

    blocks: list[np.ndarray] = []
    try:
        with soundfile.SoundFile(str(path)) as file:
            while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
                blocks.append(block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32))
            rate = int(file.samplerate)
    except (RuntimeError, OSError, TypeError) as error:
        raise Undecodable(path, _reason(path, error)) from error
    if len(blocks) == 1:
        return np.ascontiguousarray(blocks[0]), rate
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32), rate


def _reason(path: str | Path, error: Exception) -> str:
    if not Path(path).is_file():
        return "no such file"
    if Path(path).stat().st_size == 0:
        return "empty: 0 bytes"
    detail = str(getattr(error, "error_string", error)).strip().rstrip(".")
    return f"cannot be decoded: {' '.join(detail.split())}"


def read_audio(path: str | Path, sample_rate: int = SAMPLE_RATE) -> Float32[Tensor, " sample"]:
    """`decode` as a tensor: mono float32 in [-1, 1) at `sample_rate` Hz."""
    return torch.from_numpy(decode(path, sample_rate))


def to_int16(samples: Float32[ndarray, "*shape"]) -> Int16[ndarray, "*shape"]:
    """Full scale [-1, 1) to int16: rounded to the nearest step of 1/32768, clipped at the ends."""
    return np.clip(np.rint(samples * np.float32(32768)), -32768, 32767).astype(np.int16)
