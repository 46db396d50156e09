"""Audio files are opened, and what is wrong with one: not there, unreadable, or not as long as it says of itself."""

from __future__ import annotations

import io
import re
import struct
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from cpc.audio.location import Member, Remote
from cpc.config import InputError

# Writers to a pipe cannot go back to fill in how long the audio became. They leave 0, or about one of these: SoX in
# AIFF; SoX, arecord and others in WAV; ffmpeg in WAV, and AU by its definition.
_OPEN = (range(0x7EFFFF00, 0x7F000100), range(0x7FFF0000, 0x80010000), range(0xFFFF0000, 1 << 32))
_MOST = 1 << 62  # the same where a length has 64 bits
_PAGE = 65307  # bytes of an Ogg page at most
# Bytes of a sample by libsndfile's name of its kind; elsewhere several samples share a block.
_BYTES = {"PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}
_BYTES |= {"ULAW": 1, "ALAW": 1}


class _Chunks(NamedTuple):
    """How a container lays out its chunks. Each is a name, its length and its content."""

    first: int  # the place of the first chunk
    name: int  # bytes of a chunk's name
    length: str  # as struct writes a chunk's length
    counted: int  # bytes beside the content that this length counts
    multiple: int  # chunks begin at multiples of this
    audio: bytes  # how the name of the chunk with the audio begins
    before: int = 0  # bytes in that chunk before the audio


_CONTAINERS = {
    b"RIFF": _Chunks(12, 4, "<I", 0, 2, b"data"),
    b"RIFX": _Chunks(12, 4, ">I", 0, 2, b"data"),
    b"RF64": _Chunks(12, 4, "<I", 0, 2, b"data"),
    b"riff": _Chunks(40, 16, "<Q", 24, 8, b"data"),  # W64
    b"FORM": _Chunks(12, 4, ">I", 0, 2, b"SSND", 8),  # AIFF
    b"caff": _Chunks(8, 4, ">q", 0, 1, b"data", 4),
}


class Header(NamedTuple):
    """What a header says of its audio's length, in bytes."""

    place: int  # of that length in the file
    form: str  # as struct writes it
    counted: int  # bytes beside the audio that it counts
    stated: int  # bytes of audio by it
    there: int  # bytes from the beginning of the audio to the end of the file
    is_open: bool  # whether it is no length, so that audio is all that follows


class _RepairedFile(io.RawIOBase):
    """A file as if its header gave the length that is there."""

    def __init__(self, path: Path, header: Header) -> None:
        self.file = path.open("rb")
        self.place, self.content = header.place, struct.pack(header.form, header.there + header.counted)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def close(self) -> None:
        self.file.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        start = self.tell()
        count = int(self.file.readinto(buffer) or 0)
        view = memoryview(buffer).cast("B")
        for at in range(max(start, self.place), min(start + count, self.place + len(self.content))):
            view[at - start] = self.content[at - self.place]
        return count


class Undecodable(InputError):
    """A file that gives no usable audio. `.path` names the file, `.reason` says why (without the path)."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[Undecodable], tuple[Path, str], dict[str, Any]]:
        """Made again from its two arguments, for it may come from a process of a pool."""
        return type(self), (self.path, self.reason), vars(self)


def open_audio(path: Path) -> tuple[Any, int, Header | None]:
    """The open soundfile.SoundFile, and what `stated_frames` says of it. Raises Undecodable.

    Where libsndfile makes nothing of a header that leaves the length open, it is given the length that is there.
    """
    if reason := _no_file(path):
        raise Undecodable(path, reason)
    frames, header, refused = 0, None, None
    try:
        file = _sound_file()(path.open("rb") if isinstance(path, Remote | Member) else str(path))
        frames, header = stated_frames(file, path)
    except (RuntimeError, OSError, TypeError) as error:
        refused = error
    try:
        header = read_header(path) if refused else header
        if header is not None and header.is_open and not frames:
            file = _sound_file()(_RepairedFile(path, header))
            frames, refused = int(file.frames), None
    except (RuntimeError, OSError, TypeError) as error:
        refused = refused or error
    if refused:
        raise Undecodable(path, _explain_unopened(path, refused)) from refused
    return file, frames, header


@cache
def _sound_file() -> Any:
    import soundfile

    class Forwards(soundfile.SoundFile):  # type: ignore[misc]
        # Where a file is seekable, soundfile seeks to its own place after each read. That is not exact in MP3 and
        # not possible in GSM: blocks would not join.
        def seekable(self) -> bool:
            return False

        def close(self) -> None:
            super().close()
            if not isinstance(self.name, str):
                self.name.close()

    return Forwards


def stated_frames(file: Any, path: Path) -> tuple[int, Header | None]:
    """Frames that an open soundfile.SoundFile has by its header, at least those that it has; the header.

    They differ for a WAV, RF64, W64, AIFF, AU, CAF or NIST that was cut short. The header is None where it need not
    be looked at; where it leaves the length open, the frames are those that libsndfile finds, possibly none.
    """
    frames = int(file.frames)
    if file.format == "NIST":
        with path.open("rb") as opened:
            found = re.search(rb"^sample_count -i (\d+)", opened.read(1024), re.MULTILINE)
        return max(frames, int(found[1]) if found else 0), None
    if file.format not in ("WAV", "WAVEX", "AIFF", "AU", "RF64", "W64", "CAF"):
        return frames, None
    quiet = file.format in ("WAV", "WAVEX", "AIFF") and frames  # libsndfile tells of a wrong length in these
    if quiet and not any(said in file.extra_info for said in ("should be", "Fixing it")):
        return frames, None
    header = read_header(path)
    if header is None or header.is_open or header.stated <= header.there or not frames:
        return frames, header
    size = _BYTES.get(file.subtype, 0) * int(file.channels)
    if size and header.there // size == frames:
        return max(frames, header.stated // size), header
    return max(frames, round(frames * header.stated / header.there)), header


def read_header(path: Path) -> Header | None:
    """The length in a file's header; None if it is of no known kind, or has none."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        kind = file.read(4)
        try:
            if kind in (b".snd", b"dns."):  # AU, of either order of bytes
                form = ">I" if kind == b".snd" else "<I"
                return _header(8, form, 0, _number(file, 8, form), size - _number(file, 4, form), False)
            chunks = _CONTAINERS.get(kind)
            return None if chunks is None else _chunk_header(file, size, kind, chunks)
        except struct.error:  # the file ends here
            return None


def _chunk_header(file: io.BufferedIOBase, size: int, kind: bytes, chunks: _Chunks) -> Header | None:
    width, place = struct.calcsize(chunks.length), chunks.first
    large = 0  # the place of a 64-bit length, in RF64
    while place < size:
        file.seek(place)
        name = file.read(chunks.name)
        at = place + chunks.name
        length, content = _number(file, at, chunks.length), at + width
        if name == b"ds64":
            large = content + 8
        if not name.startswith(chunks.audio):
            place = _after(place, content, length, chunks)
            continue
        before = chunks.before
        if kind == b"FORM":
            before += _number(file, content, ">I")
        there = size - content - before
        if large and kind == b"RF64":
            return _header(large, "<Q", 0, _number(file, large, "<Q"), there, _are_chunks(file, content, size, chunks))
        empty = length - chunks.counted <= before and _are_chunks(file, content + before, size, chunks)
        return _header(at, chunks.length, chunks.counted + before, length, there, empty)
    return None


def _header(place: int, form: str, counted: int, length: int, there: int, empty: bool) -> Header:
    """`empty`: whether what follows a length of 0 is known to be no audio."""
    stated = length - counted
    marks = length < 0 or length >= _MOST or any(length in some for some in _OPEN)
    is_open = there > 0 and ((stated <= 0 and not empty) or (marks and stated > there) or length < 0)
    return Header(place, form, counted, stated, there, is_open)


def _after(place: int, content: int, length: int, chunks: _Chunks) -> int:
    end = content + length if not chunks.counted else place + max(length, chunks.counted)
    return end + -end % chunks.multiple


def _are_chunks(file: io.BufferedIOBase, place: int, size: int, chunks: _Chunks) -> bool:
    """Whether what lies between `place` and the end of the file is chunks, such as a list of titles."""
    width = struct.calcsize(chunks.length)
    while place + chunks.name + width <= size:
        file.seek(place)
        name = file.read(chunks.name)
        if not (name[:4].isascii() and name[:4].decode().isprintable()):
            return False
        at = place + chunks.name
        length = _number(file, at, chunks.length)
        if length < 0:
            return False
        place = _after(place, at + width, length, chunks)
    return place in (size, size + 1)


def _number(file: io.BufferedIOBase, place: int, form: str) -> int:
    file.seek(place)
    return int(struct.unpack(form, file.read(struct.calcsize(form)))[0])


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


def _no_file(path: Path) -> str:
    """Why `path` is no file that can be opened; "" if it is one."""
    try:
        if path.is_file():
            return ""
        if path.exists():
            return "not a file"
    except OSError as error:
        return f"cannot be read: {str(error.strerror).lower()}"
    return "a link that leads to no file" if path.is_symlink() else "no such file"


def _explain_unopened(path: Path, error: Exception) -> str:
    """What to say of a file that libsndfile refused with `error`."""
    try:
        path.open("rb").close()
    except OSError as refused:
        return f"cannot be read: {str(refused.strerror).lower()}"
    if path.stat().st_size == 0:
        return "empty: 0 bytes"
    detail = str(getattr(error, "error_string", error)).strip().rstrip(".")
    return f"cannot be decoded: {' '.join(detail.split())}"
