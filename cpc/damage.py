"""What is wrong with an audio file: not there, not readable, or shorter than it says of itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# What libsndfile notes of a file that ends before its header says so; it then takes the file's length in silence.
_BYTES = re.compile(r"^\s*(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)  # WAV, AIFF, AU
_FRAMES = re.compile(r"Calculated frame count \d+ does not match value from 'ds64' chunk of (\d+)")  # RF64
_OPEN = 0x7FFF0000  # writers to a pipe leave a length as large as this in the header: it says nothing
_SSND = 8  # bytes before the samples in AIFF's chunk of them
_PAGE = 65307  # bytes of an Ogg page at most


def stated_frames(file: Any) -> int:
    """Frames that an open soundfile.SoundFile has by its header, at least those that it has by its length.

    They differ for a WAV, AIFF, AU or RF64 that was cut short. Not for W64 and NIST, of which libsndfile tells
    nothing, nor where the header leaves the length open (a stream, or 2 GiB and more in a WAV).
    """
    frames = int(file.frames)
    if file.format not in ("WAV", "WAVEX", "AIFF", "AU", "RF64") or not frames:
        return frames
    log = file.extra_info
    if found := _FRAMES.search(log):
        return max(frames, int(found[1]))
    if not (found := _BYTES.search(log)) or int(found[1]) >= _OPEN:
        return frames
    before = _SSND if file.format == "AIFF" else 0
    stated, there = int(found[1]) - before, int(found[2]) - before
    size = there // frames  # of a frame; 0 where several share a byte, as in ADPCM
    return max(frames, stated // size if size else round(frames * stated / there))


def ends_within_page(path: Path) -> bool:
    """Whether an Ogg file ends before its last page does. (One that breaks off between two pages cannot be told.)"""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - _PAGE, 0))
        tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    if not page.startswith(b"OggS"):
        return False
    segments = page[27 : 27 + page[26]] if len(page) > 27 else b""
    return len(page) < 27 or len(segments) < page[26] or len(page) < 27 + len(segments) + sum(segments)


def no_file(path: Path) -> str:
    """Why `path` is no file that can be opened; "" if it is one."""
    try:
        if path.is_file():
            return ""
        if path.exists():
            return "not a file"
    except OSError as error:
        return f"cannot be read: {str(error.strerror).lower()}"
    return "a link that leads to no file" if path.is_symlink() else "no such file"


def why_not_opened(path: Path, error: Exception) -> str:
    """What to say of a file that libsndfile refused with `error`."""
    try:
        path.open("rb").close()
    except OSError as refused:
        return f"cannot be read: {str(refused.strerror).lower()}"
    if path.stat().st_size == 0:
        return "empty: 0 bytes"
    detail = str(getattr(error, "error_string", error)).strip().rstrip(".")
    return f"cannot be decoded: {' '.join(detail.split())}"
