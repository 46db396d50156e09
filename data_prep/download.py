"""The catalogue: which archives LibriSpeech and Mini LibriSpeech consist of, their checksums, and who serves them.

Checksums are those of OpenSLR's own md5sum.txt (resources 12 and 31) as several independent projects quote them;
sizes in bytes agree between TensorFlow Datasets, Kaldi's recipes and others. Hours: Panayotov et al. 2015, table 1;
those of Mini LibriSpeech follow from the size of its archives at 63.5 MB an hour.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Annotated, NamedTuple

import requests
import typer
from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass
from requests.adapters import HTTPAdapter
from rich import progress as rich_progress
from rich.console import Console
from rich.filesize import decimal
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from cpc.config import STRICT, InputError, load
from cpc.data.progress import PLAIN_EVERY
from cpc.io import locked

SLACK = 1.02  # an unpacked file takes whole disk blocks; FLAC itself is hardly smaller inside an archive
PACKED = 3600 * 16000 * 2  # bytes of int16 samples at 16 kHz an hour
_BLOCK = 1 << 20  # bytes read at a time


def _is_path(text: str) -> str:
    if not re.fullmatch(r"(\w[\w.-]*/)*\w[\w.-]*\.(tar\.gz|tgz)", text):
        raise ValueError("must be a path below the mirror's address that ends in .tar.gz, such as 12/dev-clean.tar.gz")
    return text


def _is_checksum(text: str) -> str:
    if not re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", text):
        raise ValueError("must be md5: and 32, or sha256: and 64 hexadecimal digits in lower case")
    return text


@dataclass(frozen=True, config=STRICT)
class Archive:
    """One subset's .tar.gz: where it lies below a mirror's address, its size in bytes and its checksum.

    `hours` of audio and the number of `utterances` are 0 where nobody knows them.
    """

    path: Annotated[str, AfterValidator(_is_path)]
    size: Annotated[int, Field(gt=0)]
    checksum: Annotated[str, AfterValidator(_is_checksum)]
    hours: Annotated[float, Field(ge=0)] = 0.0
    utterances: Annotated[int, Field(ge=0)] = 0

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def unpacked(self) -> int:
        """Bytes on disk of the files inside, about."""
        return round(SLACK * self.size)

    @property
    def packed(self) -> int:
        """Bytes of the packed corpus, about; for unknown hours twice the archive, as FLAC halves speech."""
        return round(self.hours * PACKED) or 2 * self.size


@dataclass(frozen=True, config=STRICT)
class Catalogue:
    """Archives by the name of their subset, and the addresses of the mirrors, in the order in which they are asked."""

    archives: dict[str, Archive]
    mirrors: tuple[str, ...] = ()

    def choose(self, subsets: Sequence[str]) -> dict[str, Archive]:
        """The archives of these subsets, each once. Raises InputError with the nearest name for an unknown one."""
        for subset in subsets:
            if subset not in self.archives:
                near = difflib.get_close_matches(subset, self.archives, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise InputError(f"subset={subset}: no such subset{hint} (subsets: {', '.join(self.archives)})")
        return {subset: self.archives[subset] for subset in subsets}


def read_catalogue(path: Path) -> Catalogue:
    """A catalogue of your own from JSON (or YAML): `{"archives": {NAME: {path, size, checksum}}, "mirrors": […]}`.

    Raises InputError for a missing file, and one that names file, key, value and rule for everything wrong in it.
    """
    if not path.is_file():
        raise InputError(f"catalogue={path}: no such file; name a JSON file with archives and mirrors")
    catalogue = load(Catalogue, path.absolute())
    for subset in catalogue.archives:
        if not re.fullmatch(r"\w[\w.-]*", subset):
            raise InputError(f"{path}: archives.{subset}: a subset is a folder's name: letters, digits, dots, - and _")
    return catalogue


def measure(file: Path, algorithm: str) -> str:
    """The checksum of a file as `ALGORITHM:hexadecimal`."""
    sha = hashlib.new(algorithm, usedforsecurity=False)
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            sha.update(block)
    return f"{algorithm}:{sha.hexdigest()}"


def wrong_checksum(file: Path, archive: Archive) -> str | None:
    """The checksum that `file` has instead of the archive's; None if it is the right one."""
    got = measure(file, archive.checksum.partition(":")[0])
    return None if got == archive.checksum else got


def _archive(resource: int, subset: str, size: int, md5: str, hours: float, utterances: int) -> Archive:
    return Archive(f"{resource}/{subset}.tar.gz", size, f"md5:{md5}", hours, utterances)


# OpenSLR's own address, then its mirrors in the USA, Europe and China.
MIRRORS = (
    "https://www.openslr.org/resources",
    "https://openslr.trmal.net/resources",
    "https://openslr.elda.org/resources",
    "https://openslr.magicdatatech.com/resources",
)
_ROWS = (
    (12, "dev-clean", 337926286, "42e2234ba48799c1f50f24a7926300a1", 5.4, 2703),
    (12, "dev-other", 314305928, "c8d0bcc9cca99d4f8b62fcc847357931", 5.3, 2864),
    (12, "test-clean", 346663984, "32fa31d27d2e1cad72775fee3f4849a9", 5.4, 2620),
    (12, "test-other", 328757843, "fb5a50374b501bb3bac4815ee91d3135", 5.1, 2939),
    (12, "train-clean-100", 6387309499, "2a93770f6d5c6c964bc36631d331a522", 100.6, 28539),
    (12, "train-clean-360", 23049477885, "c0e676e450a7ff2f54aeade5171606fa", 363.6, 104014),
    (12, "train-other-500", 30593501606, "d1a0fd59409feb2c614ce4d30c387708", 496.7, 148688),
    (31, "dev-clean-2", 126046265, "6d7ab67ac6a1d2c993d050e16d61080d", 2.0, 1089),
    (31, "train-clean-5", 332954390, "5df7d4e78065366204ca6845bb08f490", 5.2, 1519),
)
LIBRISPEECH = Catalogue({row[1]: _archive(*row) for row in _ROWS}, MIRRORS)


# --- Disk space: what fetching, unpacking and packing will take, compared with what is free, before anything starts.


class SpaceNeeded(NamedTuple):
    """Bytes that one subset will take. `held` are those of its archive that are on the disk already."""

    archive: int = 0
    unpacked: int = 0
    packed: int = 0
    held: int = 0


def peak(needs: Sequence[SpaceNeeded], keep: bool) -> int:
    """The most bytes to be taken at any time, if all archives come first and each subset is then unpacked and packed.

    Without `keep`, an archive goes when it is unpacked.
    """
    used = most = sum(need.archive for need in needs)
    for need in needs:
        used += need.unpacked
        most = max(most, used)
        used += need.packed - (0 if keep else need.archive + need.held)
        most = max(most, used)
    return most


def check_space(out: Path, needs: Sequence[SpaceNeeded], keep: bool) -> None:
    """Say what is needed and what is free. Raises InputError, before anything is written, if it does not fit."""
    needed = peak(needs, keep)
    if not needed:
        return
    columns = ("archives", "unpacked", "packed")
    sums = [sum(column) for column in zip(*needs, strict=True)]
    parts = ", ".join(f"{name} {decimal(amount)}" for name, amount in zip(columns, sums, strict=False) if amount)
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        less = peak(needs, keep=False)
        remedy = f", or --no-keep-archives, which needs {decimal(less)}" if less <= free else ""
        rule = f"needs {decimal(needed)} ({parts}), {decimal(free)} are free"
        raise InputError(f"out={out}: {rule}; name a folder on another disk{remedy}")
    typer.echo(f"{out}: needs about {decimal(needed)} more ({parts}); {decimal(free)} are free")


# --- The progress of downloading and unpacking: bars on a terminal, else one plain line every ten seconds, on stderr.


class Transfer:
    """Counts the bytes of several files, from any thread; `sizes` are their full sizes by name."""

    def __init__(self, name: str, sizes: Mapping[str, int], shown: bool) -> None:
        self.name, self.total, self.shown = name, sum(sizes.values()), shown
        self.held = self.received = 0  # bytes done; those of them that were done since the start
        self.console = Console(stderr=True, soft_wrap=True)
        self.bar = _bar(self.console) if shown and self.console.is_terminal else None
        self._tasks = {name: self.bar.add_task(name, total=size) for name, size in sizes.items()} if self.bar else {}
        self._lock = threading.Lock()
        self._start = self._said = time.monotonic()

    def found(self, name: str, amount: int) -> None:
        """`amount` bytes of the file were on disk already; negative if what was there is thrown away."""
        with self._lock:
            self._hold(name, amount)

    def add(self, name: str, amount: int) -> None:
        """`amount` more bytes were done."""
        with self._lock:
            self.received += amount
            self._hold(name, amount)
            if self.bar is None and self.shown and time.monotonic() - self._said >= PLAIN_EVERY:
                self._said = time.monotonic()
                self.console.print(self.line(time.monotonic() - self._start), highlight=False, markup=False)

    def _hold(self, name: str, amount: int) -> None:
        self.held += amount
        if self.bar is not None:
            self.bar.update(self._tasks[name], advance=amount)

    def line(self, seconds: float) -> str:
        """How far it is after `seconds`: amounts, speed, and the time that the rest takes at this speed."""
        speed = self.received / max(seconds, 1e-9)
        left = f", {(self.total - self.held) / speed:.0f} s left" if speed else ""
        return f"{self.name}: {decimal(self.held)} of {decimal(self.total)}, {decimal(round(speed))}/s{left}"


def _bar(console: Console) -> rich_progress.Progress:
    return rich_progress.Progress(
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.DownloadColumn(),
        rich_progress.TransferSpeedColumn(),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("left"),
        console=console,
    )


@contextmanager
def show_transfer(name: str, sizes: Mapping[str, int], shown: bool) -> Iterator[Transfer]:
    """Show the progress of files of these sizes (bytes, by name) while the block runs."""
    state = Transfer(name, sizes, shown)
    if state.bar is None:
        yield state
        return
    with state.bar:
        yield state


# --- Download over HTTP: resumed where a cut left off, from the first mirror that has them, checked before use.


AT_ONCE = 4  # archives fetched at a time
TRIES = 5  # without a new byte, before a mirror is given up
PAUSE = 1.0  # seconds before the first of them; doubled each time
TIMEOUT = (15.0, 20.0)  # seconds to connect, and without a byte before asking again
BUSY = (408, 425, 429, 500, 502, 503, 504)  # answers that may be another one soon
_BLOCK_download = 1 << 16  # bytes: small, so that Ctrl-C does not wait long for one on a slow line
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
                remedy = "fix that and run the same command again: what is fetched stays"
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
        while block := response.raw.read(_BLOCK_download, decode_content=False):
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
