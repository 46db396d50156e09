"""Download archives over HTTP: resumed where a cut left off, from the first mirror that has them, checked before use.

`requests` speaks HTTP (certificates, proxies, redirects, and through urllib3 the patience with busy servers); pooch
and the like, which were weighed, begin a cut file again from its first byte. What lies here is what is missing:
ranges, mirrors, checksums. A file is NAME.part until its checksum is right; then it is renamed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from cpc.config import InputError
from cpc.files import locked
from data_prep.catalogue import Archive, wrong_checksum
from data_prep.transfer import Transfer, show_transfer

AT_ONCE = 4  # archives fetched at a time
TRIES = 5  # without a new byte, before a mirror is given up
PAUSE = 1.0  # seconds before the first of them; doubled each time
TIMEOUT = (15.0, 20.0)  # seconds to connect, and without a byte before asking again
BUSY = (408, 425, 429, 500, 502, 503, 504)  # answers that may be another one soon
_BLOCK = 1 << 16  # bytes: small, so that Ctrl-C does not wait long for one on a slow line
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class Unavailable(Exception):
    """A mirror does not give this archive; says why."""


def fetch_all(
    archives: Mapping[str, Archive],
    mirrors: Sequence[str],
    folder: Path,
    *,
    pause: float = PAUSE,
    progress: bool = True,
) -> dict[str, Path | InputError]:
    """Fetch archives into `folder`, several at a time; by subset where each lies, or why it could not be had.

    One that fails does not stop the others. Called again, it fetches only what is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stop = Event()
    with show_transfer("fetching", {one.name: one.size for one in archives.values()}, progress) as state:

        def get(archive: Archive) -> Path | InputError:
            try:
                return fetch(archive, mirrors, folder, state=state, stop=stop, pause=pause)
            except InputError as error:
                return error
            except OSError as error:
                remedy = "mend that and run the same again: what is fetched stays"
                return InputError(f"{folder / archive.name}: cannot be written ({error.strerror}); {remedy}")

        with ThreadPoolExecutor(AT_ONCE) as pool:
            try:
                return dict(zip(archives, pool.map(get, archives.values()), strict=True))
            finally:
                stop.set()  # after Ctrl-C the threads end at their next block


def fetch(
    archive: Archive, mirrors: Sequence[str], folder: Path, *, state: Transfer, stop: Event, pause: float = PAUSE
) -> Path:
    """One archive in `folder`, its checksum verified: the file that is there already, or a fresh one.

    Mirrors are asked in turn. A file with a wrong checksum is removed and fetched once more, from the next mirror.
    Raises InputError if no mirror has it, or if two copies had a wrong checksum.
    """
    target = folder / archive.name
    if target.is_file() and wrong_checksum(target, archive) is None:
        state.found(archive.name, archive.size)
        return target
    part = target.with_name(f"{target.name}.part")
    failures, wrong = list[str](), list[str]()
    with claimed(part):
        part.touch()
        state.found(archive.name, _size(part))
        urls = _addresses(archive, mirrors)
        for url in [*urls, urls[0]]:
            try:
                _complete(url, part, archive, state, stop, pause)
            except Unavailable as error:
                failures.append(f"{url}: {error}")
                continue
            got = wrong_checksum(part, archive)
            if got is None:
                part.replace(target)
                return target
            os.truncate(part, 0)
            state.found(archive.name, -archive.size)
            wrong.append(f"got {got} from {url}")
            if len(wrong) == 2:
                break
        if not _size(part):
            part.unlink()
        raise _failed(target, archive, failures, wrong)


def _addresses(archive: Archive, mirrors: Sequence[str]) -> list[str]:
    """Where the archive should be. A mirror that is the only one may also hold all archives side by side."""
    if not mirrors:
        raise InputError(f"archive={archive.name}: the catalogue names no mirrors; give one by --source")
    urls = [f"{mirror.rstrip('/')}/{archive.path}" for mirror in mirrors]
    flat = f"{mirrors[0].rstrip('/')}/{archive.name}"
    return urls if len(urls) > 1 or flat in urls else [*urls, flat]


def _failed(target: Path, archive: Archive, failures: list[str], wrong: list[str]) -> InputError:
    reasons = "; ".join(dict.fromkeys(failures))
    if not wrong:
        remedy = "run the same again later, or name another --source"
        return InputError(f"{target.name}: no mirror gives it ({reasons}); {remedy}")
    also = f"; {reasons}" if reasons and len(wrong) == 1 else ""
    rule = f"wrong checksum: expected {archive.checksum}, {', '.join(wrong)}{also}"
    return InputError(f"{target}: {rule}; removed, name another --source")


def _complete(url: str, part: Path, archive: Archive, state: Transfer, stop: Event, pause: float) -> None:
    """Bring `part` to the archive's size, however often the connection is cut.

    Raises Unavailable if the server has no such file, or after TRIES tries that brought nothing new.
    """
    if _size(part) > archive.size:
        state.found(archive.name, -_size(part))
        os.truncate(part, 0)
    most, idle, reason = _size(part), 0, ""
    with _session(pause) as session:
        while (held := _size(part)) < archive.size:
            if stop.is_set():
                raise CancelledError
            try:
                _receive(session, url, part, archive, state, stop)
                reason = f"cut after {_size(part)} of {archive.size} bytes"
            except HTTPError as error:
                reason = " ".join(str(error).split())
            idle = 0 if (held := _size(part)) > most else idle + 1
            most = max(most, held)
            if idle == TRIES:
                raise Unavailable(f"gave up after {TRIES} tries without a new byte ({reason})")
            if held < archive.size:
                stop.wait(pause * 2**idle)


def _session(pause: float) -> requests.Session:
    """Connections that are refused and servers that are busy are tried again, but never waited for by the hour."""
    patience = Retry(
        TRIES,
        connect=3,
        backoff_factor=pause,
        status_forcelist=BUSY,
        raise_on_status=False,
        respect_retry_after_header=False,
    )
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=patience))
    return session


def _receive(session: requests.Session, url: str, part: Path, archive: Archive, state: Transfer, stop: Event) -> None:
    """Append to `part` what one request gives; a server that ignores the range begins it again."""
    held = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={held}-"} if held else {})
    try:
        response = session.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except requests.RequestException as error:
        raise Unavailable(_plain(error)) from error
    with response, part.open("r+b") as file:
        start = _first_byte(response, held, archive.size)
        file.seek(start)
        file.truncate()
        state.found(archive.name, start - held)
        # The bytes as they are: a server may call the archive's own gzip a content encoding.
        while block := response.raw.read(_BLOCK, decode_content=False):
            if stop.is_set():
                raise CancelledError
            if file.tell() + len(block) > archive.size:
                raise Unavailable(f"sends more than {archive.size} bytes")
            file.write(block)
            state.add(archive.name, len(block))


def _first_byte(response: requests.Response, held: int, size: int) -> int:
    """The place in the file of the first byte of the answer. Raises Unavailable if it is no such file."""
    if response.status_code == requests.codes.partial_content:
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) > held or found[2] not in ("*", str(size)):
            said = response.headers.get("Content-Range")
            raise Unavailable(f"answers with the range {said}, asked from byte {held} of {size}")
        return int(found[1])
    if response.status_code != requests.codes.ok:
        raise Unavailable(f"{response.status_code} {response.reason}")
    length = response.headers.get("Content-Length", str(size))
    if length != str(size):
        raise Unavailable(f"has a file of {length} bytes, not of {size}")
    return 0


def _plain(error: requests.RequestException) -> str:
    """What went wrong, without the names of the library's own objects."""
    cause = getattr(error.args[0] if error.args else error, "reason", error)
    return " ".join(re.sub(r"^.*?object at 0x\w+>: |^.*?Connection\w*\([^)]*\): ", "", str(cause)).split())


def _size(file: Path) -> int:
    return file.stat().st_size


@contextmanager
def claimed(file: Path) -> Iterator[None]:
    """Hold `file` for this process, by a lock file beside it. Raises InputError if another process holds it."""
    lock = file if file.suffix == ".lock" else file.with_name(f"{file.name}.lock")
    with locked(lock, f"{file}: another process is at work on it; wait for it to end"):
        try:
            yield
        finally:
            if not file.exists():
                lock.unlink(missing_ok=True)


def find_archive(archive: Archive, folder: Path) -> Path:
    """The archive in a plain folder, its checksum verified. Raises InputError; nothing there is changed."""
    places = [folder / archive.name, folder / archive.path]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise InputError(f"source={folder}: holds neither {archive.name} nor {archive.path}; put the archive there")
    if got := wrong_checksum(file, archive):
        rule = f"wrong checksum: expected {archive.checksum}, got {got}"
        raise InputError(f"{file}: {rule}; fetch it again, or give its own checksum in a --catalogue")
    return file
