"""Audio files: find them, measure them, decode them, whole or in segments, to mono at one sample rate."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int16
from numpy import ndarray

from cpc.audio.integrity import Undecodable, ends_within_page, open_audio
from cpc.audio.location import Remote, locate
from cpc.config import InputError

SAMPLE_RATE = 16000
SLACK = 0.05  # seconds that a file may lack of what its header says: recorders write a little less than they meant to
SUFFIXES = frozenset(
    (".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp3", ".nist", ".oga", ".ogg", ".opus", ".rf64")
) | {".snd", ".sph", ".w64", ".wav"}
_PIECE = 1 << 15  # samples that `to_int16` converts at a time
_BLOCK = 1 << 20  # frames a read: a wrong length in a header can then never ask for absurd memory
_STEP = 256  # frames a read where a block failed, to keep what lies before the damage
_UNKNOWN = 1 << 62  # libsndfile's length of a FLAC whose header leaves it open, as one that was written to a pipe
# Where a seek gives the same samples as reading up to there. Elsewhere (MP3, Opus, Vorbis: up to 0.2 of full scale
# apart with libsndfile 1.2.2; GSM may not seek at all) the way there is decoded and dropped.
_EXACT = ("PCM_", "FLOAT", "DOUBLE", "ULAW", "ALAW")


class AudioInfo(NamedTuple):
    """What a file's header says: samples of each channel (0 if it leaves that open), Hz, channels."""

    samples: int
    sample_rate: int
    channels: int


def find_audio(root: str | Path) -> list[Path]:
    """What `walk_audio` finds, in a list."""
    return list(walk_audio(root))


def walk_audio(root: str | Path) -> Iterator[Path]:
    """Every audio file below `root` (known suffixes in any case, hidden names skipped), sorted by path.

    Linked folders are followed, each real folder once. `root` may also be one file, whatever its suffix, or a URL.
    What is in memory are the names in one folder and in those above it, and the paths of all folders.

    Raises:
        InputError: `root` does not exist or holds no audio, or a folder cannot be read.
    """
    root = locate(root)
    if not root.is_dir() and not root.is_file():
        raise InputError(f"audio={root}: no such file or folder; give a folder of audio or one audio file")
    found = False
    below = _walk_url(root) if isinstance(root, Remote) else _walk(root, set())
    for path in [root] if root.is_file() else below:
        found = True
        yield path
    if not found:
        raise InputError(f"audio={root}: holds no audio; files must end in one of {', '.join(sorted(SUFFIXES))}")


def _walk(folder: Path, seen: set[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in seen:  # a link back to a folder above would never end
        return
    seen.add(real)
    _, folders, files = next(os.walk(folder, onerror=_unreadable))
    names = [*(f"{name}/" for name in folders), *filter(_is_audio, files)]
    for name in sorted(names):  # a folder's with its slash, so that whole paths come in order
        if name.endswith("/") and not name.startswith("."):
            yield from _walk(folder / name, seen)
        elif not name.startswith("."):
            yield folder / name


def _walk_url(root: Remote) -> Iterator[Path]:
    for path in root.files():
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if _is_audio(path.name) and not hidden:
            yield path


def _unreadable(error: OSError) -> None:
    """os.walk would pass over a folder in silence, with all that lies in it."""
    remedy = "make it readable, or name the folders beside it one at a time"
    raise InputError(f"audio: the folder {error.filename} cannot be read ({error.strerror}); {remedy}")


def _is_audio(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122


def probe(path: str | Path) -> AudioInfo:
    """Length, rate and channels from the header alone. Raises Undecodable."""
    with closing(Reader(path)) as reader:
        return AudioInfo(reader.samples or 0, reader.sample_rate, reader.channels)


def decode(
    path: str | Path,
    sample_rate: int = SAMPLE_RATE,
    start: int = 0,
    stop: int | None = None,
    *,
    strict: bool = False,
) -> Float32[ndarray, " sample"]:
    """Decode a file, or its samples start..stop (at its own rate), to mono float32 at `sample_rate` Hz.

    Full scale is [-1, 1). Channels are averaged; another rate is resampled (soxr, high quality). What was int16
    in the file at `sample_rate` comes back exactly: sample / 32768. Raises Undecodable for what cannot be decoded,
    is empty, holds NaN or infinity, has fewer samples than its header or `stop` says, or ends within an Ogg page.
    MP3's header may be a guess: what such a file holds is taken as it is. So is a file that lacks at most 50 ms of
    what its header says (not with `strict`), and one whose header leaves the length open, as writers to a pipe do.
    """
    with closing(Reader(path, strict=strict)) as reader:
        return reader.decode(sample_rate, start, stop)


class Reader:
    """An audio file that is read forwards, as mono float32 at its own rate, one block in memory at a time.

    Segments asked for in their order cost one pass over the file. `samples` is None where the length cannot be
    told; `note` says where it is not the one in the header, "" where it is. With `strict` a file that lacks a little
    of that is damaged. Raises Undecodable if there is no file or no audio in it.
    """

    def __init__(self, path: str | Path, *, strict: bool = False) -> None:
        self.path = locate(path)
        self.damaged = False  # reading failed at `position`
        self._file, stated, header = open_audio(self.path)
        self.sample_rate, self.channels = int(self._file.samplerate), int(self._file.channels)
        self._torn = self._file.format == "OGG" and ends_within_page(self.path)
        self.samples = None if self._torn or self._file.frames >= _UNKNOWN else stated
        self.note, frames = "", int(self._file.frames)
        if header is not None and header.is_open and frames:
            self.note = f"its header leaves the length open: taken to the end of the file, {frames} samples"
        elif not strict and 0 < frames < stated <= frames + SLACK * self.sample_rate:
            self.samples = frames
            self.note = f"holds {stated - frames} samples less than the {stated} of its header: taken as it is"
        self.guesses = self._file.format == "MP3"  # whether `samples` may be off
        self.position = 0

    def close(self) -> None:
        self._file.close()

    def decode(self, sample_rate: int, start: int = 0, stop: int | None = None) -> Float32[ndarray, " sample"]:
        """Samples start..stop as `decode` gives them."""
        blocks = list(self.blocks(start, stop))
        samples = np.concatenate(blocks) if len(blocks) > 1 else blocks[0] if blocks else np.zeros(0, np.float32)
        if lack := self._missing_audio(start + len(samples), start, stop):
            raise Undecodable(self.path, lack)
        if not np.isfinite(samples).all():
            raise Undecodable(self.path, f"{np.count_nonzero(~np.isfinite(samples))} samples are NaN or infinite")
        return resample(samples, self.sample_rate, sample_rate)

    def _missing_audio(self, end: int, start: int, stop: int | None) -> str:
        """What is wrong with samples that were to go from `start` to `stop` and end at `end`; "" if nothing is."""
        expected = stop if stop is not None or self.guesses else self.samples
        if self.damaged and end == 0:
            return "cannot be decoded: damaged from its first sample"
        if self.damaged and expected is None:
            return f"damaged: only the first {end} samples can be decoded"
        if expected is not None and end < expected:
            return f"cut short or damaged: only {end - start} of {expected - start} samples can be decoded"
        return "" if end > start else "empty: no samples"

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[Float32[ndarray, " sample"]]:
        """Samples start..stop block by block, as far as they can be decoded."""
        self._go_to(start)
        while stop is None or self.position < stop:
            block = self._read(_BLOCK if stop is None else min(_BLOCK, stop - self.position))
            if not len(block):
                return
            yield np.ascontiguousarray(block[:, 0]) if self.channels == 1 else block.mean(axis=1, dtype=np.float32)

    def _go_to(self, start: int) -> None:
        if start < self.position:
            self._reopen()
        if start > self.position and self._file.subtype.startswith(_EXACT):
            try:
                self.position = int(self._file.seek(min(start, self.samples or start)))
            except (RuntimeError, OSError):  # a FLAC that ends before its header says so
                self._reopen()
        while self.position < start and len(self._read(min(_BLOCK, start - self.position))):
            pass

    def _reopen(self) -> None:
        self._file.close()
        self._file, self.position, self.damaged = open_audio(self.path)[0], 0, False

    def _read(self, frames: int) -> Float32[ndarray, "frame channel"]:
        """The next frames, fewer at the end of the file or before damage."""
        if self.samples is not None:  # what may follow, such as a tag, is no audio
            frames = min(frames, self.samples - self.position)
        if self.damaged or frames <= 0:
            return np.zeros((0, self.channels), np.float32)
        try:
            block: ndarray = self._file.read(frames, dtype="float32", always_2d=True)
        except (RuntimeError, OSError):
            return self._read_to_damage(frames)
        self.position += len(block)
        self.damaged = self._torn and len(block) < frames
        return block

    def _read_to_damage(self, frames: int) -> Float32[ndarray, "frame channel"]:
        """A block that failed, again in small steps up to where it fails."""
        if frames <= _STEP:
            self.damaged = True
            return np.zeros((0, self.channels), np.float32)
        position, steps = self.position, []
        self._reopen()
        self._go_to(position)
        while self.position < position + frames and len(step := self._read(_STEP)):
            steps.append(step)
        return np.concatenate(steps) if steps else np.zeros((0, self.channels), np.float32)


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


def to_int16(samples: Float32[ndarray, " sample"]) -> Int16[ndarray, " sample"]:
    """Full scale [-1, 1) to int16: rounded to the nearest step of 1/32768, clipped at the ends."""
    out = np.empty(len(samples), np.int16)
    scaled = np.empty(min(_PIECE, len(samples)), np.float32)  # small enough to stay in the cache
    for start in range(0, len(samples), _PIECE):
        part = scaled[: len(samples) - start]
        np.multiply(samples[start : start + _PIECE], np.float32(32768), out=part)
        np.clip(np.rint(part, out=part), -32768, 32767, out=part)
        out[start : start + _PIECE] = part
    return out
