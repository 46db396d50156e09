"""Where audio lies: a local file, a URL that fsspec opens, or bytes within either (a tar's member, a cell of a table).

All are paths to those who read them: `Remote` and `Member` have as much of pathlib's interface as reading needs. A
`Remote` takes whole files too (`put`), which is all that `cpc.io.atomic` asks for.
"""

from __future__ import annotations

import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from functools import cached_property
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

from cpc.config import InputError
from cpc.io import WRITER

INSTALL = "for s3://, gs:// and https://: pip install s3fs gcsfs aiohttp"
TRIES = 3  # of a transfer that fails
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.DOTALL)  # two letters and more: C:/ is a disk
# Where a file that is sent is there as a whole or not at all; elsewhere it is renamed when it is complete.
_STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "oci", "hf", "http", "https", "memory")
_WRITING = ("put_file", "makedirs", "mv", "rm_file")  # of fsspec's calls
_MEMBER = re.compile(r"bytes://(\d+)\+(\d+)/(.*)::(.*)", re.DOTALL)


def locate(text: str | Path) -> Path:
    """The path that a text means: a local one, a `Remote` if it is a URL, or the `Member` that `locator` wrote.

    A file:// URL is a local path.

    Example:
        >>> locate("data/a.flac").name, locate("memory://bucket/a.flac").parent
        ('a.flac', Remote('memory://bucket'))

    Raises:
        InputError: a URL of a kind that fsspec does not know, or whose package is not installed.
    """
    if isinstance(text, Remote | Member):
        return text
    text = str(text)
    if found := _MEMBER.fullmatch(text):
        offset, size, name, container = found.groups()
        return Member.of(locate(container), name, int(offset), int(size))
    if found := _URL.fullmatch(text):
        if found[1] == "file":
            return Path(f"/{found[2]}")
        url = f"{found[1]}://{found[2]}"
        _filesystem(found[1], url)
        return Remote(url)
    return Path(text)


def locator(path: Path) -> str:
    """The text from which `locate` makes the path again."""
    if isinstance(path, Member):
        return f"bytes://{path.offset}+{path.size}/{path.member}::{locator(path.container)}"
    return str(path)


def is_remote(path: Path) -> bool:
    """Whether reading it is a transfer."""
    return isinstance(path, Remote) or (isinstance(path, Member) and is_remote(path.container))


def _filesystem(protocol: str, url: str) -> Any:
    import fsspec

    try:
        return fsspec.filesystem(protocol)
    except (ImportError, ValueError) as error:
        remedy = INSTALL if isinstance(error, ImportError) else "give a folder, or a URL of a kind that fsspec knows"
        raise InputError(f"{url}: {_line(error)}; {remedy}") from None
    except Exception as error:
        raise InputError(f"{url}: cannot be opened ({_line(error)})") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


class _Read(Path, ABC):
    """A path that is read in whole, and never written bit by bit."""

    _flavour = getattr(type(Path()), "_flavour", None)  # Python 3.11 gives it to its own two classes only

    @abstractmethod
    def fetch(self) -> bytes:
        """All bytes. Raises FileNotFoundError; InputError for a transfer that fails."""

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        if set(mode) & set("wax+"):
            raise InputError(f"{self}: cannot be opened for writing; name a local file")
        held = BytesIO(self.fetch())
        return held if "b" in mode else TextIOWrapper(held, encoding or "utf-8", errors, newline)

    def exists(self, **_: Any) -> bool:
        return self.is_file() or self.is_dir()

    def is_symlink(self) -> bool:
        return False

    def absolute(self) -> Any:
        return self

    def resolve(self, strict: bool = False) -> Any:
        return self


class Remote(_Read):
    """A URL of a file or folder, such as s3://bucket/a.flac, https://…, gs://…, hf://…: what fsspec reads and writes.

    Keys and servers are given as fsspec takes them: the environment, or its configuration files. A transfer that fails
    is tried again, and what then still fails is an error, never a damaged file.
    """

    def __str__(self) -> str:
        found = _URL.fullmatch(super().__str__())  # pathlib makes one slash of two
        return f"{found[1]}://{found[2]}" if found else super().__str__()

    def as_posix(self) -> str:
        return str(self)

    @property
    def filesystem(self) -> Any:
        """fsspec's."""
        url = str(self)
        return _filesystem(url.partition(":")[0], url)

    def _try(self, what: str, *arguments: Any, **options: Any) -> Any:
        """A call of the file system, FileNotFoundError passed on. Raises InputError where it keeps failing."""
        tries = 0
        while True:
            tries += 1
            try:
                return getattr(self.filesystem, what)(*arguments, **options)
            except FileNotFoundError:
                raise FileNotFoundError(2, "No such file", str(self)) from None
            except ImportError as error:
                raise InputError(f"{self}: {_line(error)}; {INSTALL}") from None
            except NotImplementedError:  # what fsspec raises where a file system only reads
                remedy = "name a local folder, or a URL that takes files, such as s3://"
                raise InputError(f"{self}: files cannot be sent to this kind of URL; {remedy}") from None
            except Exception as error:
                if tries == TRIES or isinstance(error, PermissionError):
                    remedy = "see that it can be reached and give the same command again: what is done stays"
                    done = "written" if what in _WRITING else "fetched"
                    raise InputError(f"{self}: cannot be {done} ({_line(error)}); {remedy}") from error
                time.sleep(0.5 * 2**tries)

    def fetch(self, start: int | None = None, end: int | None = None) -> bytes:
        """All bytes, or those from `start` to `end`."""
        content = bytes(self._try("cat_file", str(self), start=start, end=end))
        if start is not None and end is not None and len(content) > end - start:
            return content[start:end]  # a server that knows no ranges gave the whole
        return content

    def put(self, file: Path) -> None:
        """Make the contents of a local file those of this URL; a reader sees all of them or none.

        Raises:
            InputError: they cannot be sent.
        """
        whole = str(self).partition(":")[0] in _STORES
        target = self if whole else self.with_name(f"{self.name}.{os.environ.get(WRITER) or os.getpid()}.tmp")
        try:
            target._try("put_file", str(file), str(target))
        except FileNotFoundError:  # a file system with folders, unlike a store of objects
            target._try("makedirs", str(self.parent), exist_ok=True)
            target._try("put_file", str(file), str(target))
        if not whole:
            target._try("mv", str(target), str(self))

    def unlink(self, missing_ok: bool = False) -> None:
        if self.is_file() or not missing_ok:
            self._try("rm_file", str(self))

    def refresh(self) -> None:
        """Forget what was listed before: another process may have written since."""
        self.filesystem.invalidate_cache()

    def opened(self) -> Any:
        """The file, to be read here and there: only blocks of 64 KiB that are read travel."""
        return self._try("open", str(self), "rb", block_size=1 << 16)

    def files(self) -> Iterator[Remote]:
        """Every file below, sorted by URL."""
        try:
            found = self._try("find", str(self), detail=True)
        except FileNotFoundError:
            found = {}
        infos = {self.filesystem.unstrip_protocol(name): info for name, info in found.items()}
        for url in sorted(infos):
            path = Remote(url)
            path._info = infos[url]  # so that a size costs no other question
            yield path

    @cached_property
    def _info(self) -> dict[str, Any]:
        try:
            return dict(self._try("info", str(self)))
        except FileNotFoundError:
            return {}

    def stat(self, **_: Any) -> os.stat_result:
        if not self._info:
            raise FileNotFoundError(2, "No such file", str(self))
        return os.stat_result((0o100444, 0, 0, 1, 0, 0, int(self._info.get("size") or 0), 0, 0, 0))

    def is_file(self, **_: Any) -> bool:
        return not self._is_page and self._info.get("type") == "file"

    def is_dir(self, **_: Any) -> bool:
        if self._is_page or self._info.get("type") != "file":
            return any(True for _ in self.iterdir())
        return False

    @property
    def _is_page(self) -> bool:
        """Whether it is a web page, whose links are the files of a folder: its name has no suffix."""
        return str(self).startswith("http") and not self.suffix

    def iterdir(self) -> Generator[Remote, None, None]:
        unstrip = self.filesystem.unstrip_protocol
        try:
            names = self._try("ls", str(self), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return
        yield from (path for name in names if (path := Remote(unstrip(name))) != self)

    def glob(self, pattern: str, **_: Any) -> Generator[Remote, None, None]:
        yield from (path for path in self.iterdir() if path.match(pattern))


class Member(_Read):
    """Bytes within a file, which is local or remote: the file `container/member` that nobody has unpacked."""

    container: Path
    member: str
    offset: int
    size: int

    @classmethod
    def of(cls, container: Path, member: str, offset: int, size: int) -> Member:
        """The `size` bytes from `offset` of `container`, to be known as `member` there."""
        self = cls(str(container), member)
        self.container, self.member, self.offset, self.size = container, member, offset, size
        return self

    @property
    def parent(self) -> Any:
        return self.container

    def fetch(self) -> bytes:
        if isinstance(self.container, Remote):
            return self.container.fetch(self.offset, self.offset + self.size)
        with self.container.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def stat(self, **_: Any) -> os.stat_result:
        return os.stat_result((0o100444, 0, 0, 1, 0, 0, self.size, 0, 0, 0))

    def is_file(self, **_: Any) -> bool:
        return is_remote(self.container) or self.container.is_file()  # of a remote one fetching says so

    def is_dir(self, **_: Any) -> bool:
        return False

    def exists(self, **_: Any) -> bool:
        return self.is_file()

    def __reduce__(self) -> tuple[Any, ...]:
        return Member.of, (self.container, self.member, self.offset, self.size)
