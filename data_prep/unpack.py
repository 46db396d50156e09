"""Unpack a subset's archive: plain files only, nothing outside the target, and the subset whole or not at all."""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from cpc.config import InputError

from .download import claimed, show_transfer

TOP = "LibriSpeech"  # every member of every archive lies below it
_BLOCK = 1 << 20  # bytes
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a named pipe",
}


def unpack(archive: Path, subset: str, into: Path, *, progress: bool = True) -> Path:
    """Unpack LibriSpeech/SUBSET of a .tar.gz to INTO/SUBSET, and the texts beside it to INTO; that folder.

    All is first unpacked to a hidden folder of INTO. The subset appears by one rename, last of all, so that a kill at
    any moment leaves either the whole of it or nothing with its name. A text (SPEAKERS.TXT …) that is there already
    stays; one that differs from it comes to lie in the subset's own folder, where it is read first.

    Raises InputError, and leaves nothing behind, for a damaged archive, for a member that is no plain file or folder
    or whose path leads outside, and for an archive without the subset.
    """
    into.mkdir(parents=True, exist_ok=True)
    target, draft = into / subset, into / f".{subset}.tmp"
    with claimed(into / f".{subset}.lock"):
        if target.is_dir():
            return target
        shutil.rmtree(draft, ignore_errors=True)  # what a killed run left
        try:
            _extract(archive, subset, draft, progress)
            _place(archive, draft / TOP, subset, into)
        except OSError as error:
            if error.filename is None and error.errno is None:  # gzip's own
                raise _damaged(archive, error) from error
            remedy = "fix that and run the same command again"
            raise InputError(f"{into}: cannot be written ({error.strerror}); {remedy}") from error
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise _damaged(archive, error) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return target


def _damaged(archive: Path, error: Exception) -> InputError:
    return InputError(f"archive={archive}: damaged or cut short ({error}); nothing of it was kept: fetch it again")


def _extract(archive: Path, subset: str, draft: Path, progress: bool) -> None:
    """Unpack the subset and the files directly below LibriSpeech/ into `draft`."""
    if not hasattr(tarfile, "data_filter"):
        raise InputError("python: too old to unpack archives safely; use 3.11.4 or newer")
    with (
        archive.open("rb") as file,
        gzip.open(file) as stream,
        tarfile.open(fileobj=stream, mode="r|", bufsize=_BLOCK) as tar,
        show_transfer("unpacking", {archive.name: archive.stat().st_size}, progress) as state,
    ):
        for member in _safe(tar, archive):
            where = PurePosixPath(member.name).parts
            if where[1:2] == (subset,) or (len(where) == 2 and member.isfile()):
                tar.extract(member, draft, set_attrs=False, filter="data")
            state.add(archive.name, file.tell() - state.received)
        while stream.read(_BLOCK):  # to the end, where gzip's own checksum stands
            pass


def _safe(tar: tarfile.TarFile, archive: Path) -> Iterator[tarfile.TarInfo]:
    """The members; InputError at the first one that is no plain file or folder below LibriSpeech/."""
    for member in tar:
        path = PurePosixPath(member.name)
        kind = None if member.isfile() or member.isdir() else _KINDS.get(member.type, "of an unknown kind")
        if kind is None and (path.is_absolute() or ".." in path.parts):
            kind = "a path outside the target"
        if kind is None and path.parts and path.parts[0] != TOP:
            kind = f"not below {TOP}/"
        if kind is not None:
            rule = "only plain files and folders are unpacked; nothing of this archive was kept"
            raise InputError(f"archive={archive}: its member {member.name!r} is {kind}; {rule}")
        if path.parts:
            yield member


def _place(archive: Path, draft: Path, subset: str, into: Path) -> None:
    """Move what was unpacked to its place, the subset last."""
    if not (draft / subset).is_dir():
        held = ", ".join(sorted(path.name for path in draft.glob("*") if path.is_dir())) or "no subset"
        raise InputError(f"archive={archive}: holds {held}, not {TOP}/{subset}; is it the archive of another subset?")
    for text in sorted(path for path in draft.iterdir() if path.is_file()):
        if not (into / text.name).exists():
            text.replace(into / text.name)
        elif (into / text.name).read_bytes() != text.read_bytes():
            text.replace(draft / subset / text.name)
    if hasattr(os, "sync"):
        os.sync()  # the files are on the disk before the name says so
    (draft / subset).replace(into / subset)
