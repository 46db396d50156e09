"""Files written whole or not at all, and locks on folders that one process at a time may write to."""

import errno
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Protocol, runtime_checkable

from filelock import FileLock, Timeout

from cpc.config import InputError

FULL = (errno.ENOSPC, errno.EDQUOT)
WRITER = "CPC_WRITER"  # in the environment of a cluster's worker: its name, so that no two write to one temporary file


class DiskFull(InputError):
    """There is no room to write a file: what was there before is untouched, what was begun is gone."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(
            f"{path}: cannot be written, the disk is full (or the quota is used up); what was there before is whole: "
            "make room and give the same command again"
        )
        self.path = Path(path)

    def __reduce__(self) -> "tuple[type[DiskFull], tuple[Path], dict[str, object]]":
        return type(self), (self.path,), self.__dict__


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Within, an error that says that the disk is full becomes `DiskFull`, naming `path`."""
    try:
        yield
    except Exception as error:
        if not disk_is_full(error):
            raise
        raise DiskFull(path) from None


def disk_is_full(error: BaseException) -> bool:
    """Whether an error of Python, safetensors, pyarrow, libsndfile or SQLite means that the disk is full."""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    text = str(error).lower()
    return any(words in text for words in ("no space left", "disk is full", "quota exceeded", "os error 28"))


@runtime_checkable
class Destination(Protocol):
    """A path to which a whole file is sent, such as a URL (`cpc.audio.location.Remote`)."""

    name: str

    def put(self, file: Path) -> None:
        """Make the contents of a local file those of this path; a reader sees all of them or none."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name, for writers that want one; the file there appears at `path`, complete and on the disk, only on
    success.

    The temporary name is always the same, so that what a killed process left is overwritten by the next one. A worker
    of a cluster has names of its own (`remove_temporary` clears up after it): one that was given up may still write.
    What goes to a URL is written to the folder of this machine's temporary files, and sent when it is complete.

    Raises:
        DiskFull: nothing is left of what was begun.
    """
    if isinstance(path, Destination):
        with TemporaryDirectory(prefix="cpc-") as folder, room_for(Path(folder)):
            yield Path(folder, path.name)
            path.put(Path(folder, path.name))
        return
    writer = os.environ.get(WRITER, "")
    temporary = path.with_name(f"{path.name}{writer and '.' + writer}.tmp")
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def remove_temporary(folder: Path) -> None:
    """Remove what workers of a cluster that died have left below a folder."""
    for path in folder.rglob("*.worker-*.tmp"):
        path.unlink(missing_ok=True)


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """`atomic_path`, opened for writing."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        yield file


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically, with the same bytes on every system."""
    with atomic(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


@contextmanager
def locked(file: Path, busy: str, wait: bool = False) -> Iterator[None]:
    """Hold a lock for this process; the system lets go of it even after kill −9.

    On a file system without locks (some network disks) the work goes on unguarded, and a warning says so.

    Args:
        file: the lock file; made if it is missing, and left there.
        busy: what to say if another process holds it.
        wait: wait for the other process instead.

    Raises:
        InputError: another process holds it.
        DiskFull: there is no room for the lock file.
    """
    lock = FileLock(file, timeout=-1 if wait else 0)
    try:
        with room_for(file):
            lock.acquire()
    except Timeout:
        raise InputError(busy) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.ENOENT, errno.ENOTDIR):
            raise  # it is the folder that cannot be written to, not the lock that cannot be had
        reason = error.strerror if isinstance(error, OSError) else str(error)
        warnings.warn(
            f"{file}: this file system has no locks ({reason}); see to it that no second process writes here",
            stacklevel=3,
        )
        yield
        return
    try:
        yield
    finally:
        lock.release()
