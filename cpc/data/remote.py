"""A packed corpus at a URL: a local copy of what is read of it, fetched when it is first needed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import weakref
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from cpc.audio.location import Remote, locate
from cpc.config import InputError
from cpc.data import shards
from cpc.io import atomic, locked, write_json

try:
    import fcntl
except ImportError:  # Windows: nothing can be held there, and nothing that is open can be removed
    fcntl = None  # type: ignore[assignment]

_SHARD_BYTES = 1 << 26
URL = "remote.json"  # says, in a local copy, where the corpus lies


def cache_folder() -> Path:
    """Where copies are kept: CPC_CACHE of the environment, else cpc in the user's folder for caches."""
    given = os.environ.get("CPC_CACHE") or os.environ.get("XDG_CACHE_HOME")
    return Path(given, *([] if os.environ.get("CPC_CACHE") else ["cpc"])) if given else Path.home() / ".cache" / "cpc"


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def cache_size() -> int | None:
    """Bytes that shards of corpora at URLs may take on this disk: CPC_CACHE_SIZE, such as 200GB; None for no bound.

    Raises:
        InputError: it is no size.
    """
    text = os.environ.get("CPC_CACHE_SIZE", "").strip()
    if not text:
        return None
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?)(?:i?B)?", text, re.IGNORECASE)
    if not found or float(found[1]) == 0:
        raise InputError(f"CPC_CACHE_SIZE={text}: must be a number of bytes such as 200GB; fix it or unset it")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def max_open_files(usual: int) -> int:
    """How many memory maps a reader of a copy may hold, `usual` without a bound: what is mapped is not evicted."""
    size = cache_size()
    return usual if size is None else max(1, min(usual, size // 2 // _SHARD_BYTES))


def hold(path: Path, held: object) -> None:
    """Keep a shard of a copy from eviction for as long as the object `held` lives, which reads it."""
    if fcntl is not None and cache_size() is not None:
        file = path.open("rb")
        fcntl.flock(file, fcntl.LOCK_SH)
        weakref.finalize(held, file.close)
        touch(path)


def touch(path: Path) -> None:
    """Note that a shard was read now. Its time of modification says so: disks are often told not to keep another."""
    now = time.monotonic()
    if now - _touched.get(path, -_EVERY) >= _EVERY:
        _touched[path] = now
        with suppress(OSError):
            os.utime(path)


_touched: dict[Path, float] = {}
_EVERY = 10.0  # seconds between two notes


def _make_room(needed: int, kept: Path) -> None:
    """Evict the shards that were read longest ago until `needed` bytes fit; those that a process maps stay.

    Raises:
        InputError: a shard alone is larger than the bound.
    """
    size = cache_size()
    if size is None:
        return
    if needed > size:
        rule = f"the shard {kept.name} alone has {needed} bytes"
        raise InputError(f"CPC_CACHE_SIZE={os.environ['CPC_CACHE_SIZE']}: {rule}; give more")
    found = []
    for path in (cache_folder() / "corpora").glob("*/*/shards/*.npy"):
        with suppress(FileNotFoundError):
            status = path.stat()
            found.append((status.st_mtime_ns, path, status.st_size))
    total = sum(each for _, _, each in found)
    for _, path, bytes_of in sorted(found):
        if total + needed <= size:
            return
        if _evict(path):
            total -= bytes_of


def _evict(path: Path) -> bool:
    """Remove a shard that no process maps; whether it is gone."""
    try:
        with path.open("rb") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def local_copy(url: str) -> Path:
    """The folder of a copy of the corpus at `url`: its manifest, splits and labels; shards come by `fetch_shard`.

    A copy is of one content: when the corpus at the URL is packed again, another folder is begun.

    Raises:
        InputError: no packed corpus is there, or it cannot be fetched.
    """
    place = locate(url)
    if not isinstance(place, Remote):
        raise InputError(f"corpus={url}: is no URL")
    try:
        content = (place / "corpus.json").read_bytes()
    except FileNotFoundError:
        remedy = "give the folder that `cpc data folder` wrote, copied there whole"
        raise InputError(f"corpus={place}: not a packed corpus (corpus.json is missing); {remedy}") from None
    try:
        info = json.loads(content)
        digest = str(info["digest"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"corpus={place}: its corpus.json is no description of a packed corpus") from None
    mark = hashlib.sha256(f"{place}\0{digest}".encode()).hexdigest()[:12]
    folder = cache_folder() / "corpora" / mark / (place.name or "corpus")
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock", f"{folder}: another process is filling it", wait=True):
        if not (folder / URL).is_file():
            _console().print(f"cpc: what is read of {place} ({_size(info)}) is kept in {folder}", highlight=False)
            write_json(folder / URL, {"url": str(place)})
        for name in ("manifest.parquet", *_listed(place, "splits", ".txt"), *_listed(place, "labels", ".json")):
            for file in (name, *([name.removesuffix(".json") + ".parquet"] if name.endswith(".json") else [])):
                if not (folder / file).is_file():
                    _copy(place / file, folder / file)
        if not (folder / "corpus.json").is_file():  # last, as in packing: it makes the folder a corpus
            write_json(folder / "corpus.json", info)
    return folder


def is_copy(folder: Path) -> bool:
    """Whether a corpus's folder is a copy of one at a URL."""
    return (folder / URL).is_file()


def refuse_copy(folder: Path) -> None:
    """Raises InputError for a copy: what was written to it would not be where its corpus is."""
    if is_copy(folder):
        url = json.loads((folder / URL).read_text(encoding="utf-8"))["url"]
        raise InputError(f"corpus={url}: is only read from there; write to the local corpus and copy it there again")


def fetch_shard(folder: Path, shard: int) -> None:
    """Fetch one shard into a copy, if it is not there.

    Raises:
        InputError: `folder` is no copy, or the shard cannot be fetched whole.
    """
    path = shards.shard_path(folder, shard)
    if not is_copy(folder):
        raise InputError(f"corpus={folder}: {path.name} is missing; copy or pack the corpus again")
    url = json.loads((folder / URL).read_text(encoding="utf-8"))["url"]
    with locked(path.with_suffix(".lock"), f"{path}: another process is fetching it", wait=True):
        if path.is_file():
            return
        source = shards.shard_path(locate(url), shard)
        try:
            content = source.read_bytes()
        except FileNotFoundError:
            raise InputError(f"corpus={url}: {path.name} is missing there; copy the corpus there again") from None
        if not _is_whole(content):
            raise InputError(f"corpus={url}: {path.name} is cut short there; copy the corpus there again")
        with locked(cache_folder() / "evict.lock", f"{path}: another process makes room for it", wait=True):
            _make_room(len(content), path)
            with atomic(path) as file:
                file.write(content)
    path.with_suffix(".lock").unlink(missing_ok=True)


def _is_whole(content: bytes) -> bool:
    head = BytesIO(content)
    try:
        np.lib.format.read_magic(head)
        (samples,), _, kind = np.lib.format.read_array_header_1_0(head)
    except ValueError:
        return False
    return len(content) == head.tell() + samples * kind.itemsize


def _listed(place: Remote, folder: str, suffix: str) -> list[str]:
    return sorted(f"{folder}/{path.name}" for path in (place / folder).iterdir() if path.suffix == suffix)


def _copy(source: Path, path: Path) -> None:
    try:
        content = source.read_bytes()
    except FileNotFoundError:
        raise InputError(f"corpus={source.parent}: {source.name} is missing; copy the corpus there again") from None
    with atomic(path) as file:
        file.write(content)


def _size(info: dict[str, Any]) -> str:
    samples = int(info.get("samples") or 0)
    return f"{samples / max(int(info.get('sample_rate') or 1), 1) / 3600:.1f} h, {2 * samples / 1e9:.1f} GB in all"


def _console() -> Any:
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True)
