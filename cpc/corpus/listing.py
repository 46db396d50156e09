"""Sources sorted by id, on disk: a corpus of any number of files is packed from it in little memory."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

from cpc.config import InputError
from cpc.corpus.shards import printable
from cpc.corpus.source import Source
from cpc.corpus.spool import Database

_CHUNK = 256  # sources in memory at once


class Listing(Sequence[Source]):
    """Sources sorted by id, or a run of them. A slice is another view of what is on disk: nothing is copied."""

    def __init__(self, database: Database, first: int, stop: int) -> None:
        self._database, self._first, self._stop = database, first, stop

    def __len__(self) -> int:
        return self._stop - self._first

    @overload
    def __getitem__(self, place: int) -> Source: ...

    @overload
    def __getitem__(self, place: slice) -> Listing: ...

    def __getitem__(self, place: int | slice) -> Source | Listing:
        if isinstance(place, slice):
            first, stop, step = place.indices(len(self))
            if step != 1:
                raise ValueError(f"place={place}: a listing is read in its order, step 1")
            return Listing(self._database, self._first + first, self._first + max(first, stop))
        at = self._first + range(len(self))[place]
        return self._read(at, at + 1)[0]

    def __iter__(self) -> Iterator[Source]:
        for start in range(self._first, self._stop, _CHUNK):
            yield from self._read(start, min(start + _CHUNK, self._stop))

    def _read(self, first: int, stop: int) -> list[Source]:
        query = "SELECT id, source FROM listing WHERE place > ? AND place <= ? ORDER BY place"
        return [_source(id, text) for id, text in self._database.read(query, first, stop)]


def listed(sources: Iterable[Source]) -> Listing:
    """The listing of `sources`, which are taken one at a time; one that is a listing already is given back.

    Raises InputError for ids that clash, and for ids that are not one line of text.
    """
    if isinstance(sources, Listing):
        return sources
    database = Database(
        "CREATE TABLE given (id TEXT, source TEXT)", "CREATE TABLE listing (place INTEGER PRIMARY KEY, id, source)"
    )
    database.write("INSERT INTO given VALUES (?, ?)", map(_row, sources))
    # SQLite compares the bytes of UTF-8: the order of Python's strings. Its sorter is a merge sort on disk.
    database.run("INSERT INTO listing (id, source) SELECT id, source FROM given ORDER BY id, rowid")
    database.run("DROP TABLE given")
    _check(database)
    return Listing(database, 0, int(database.read("SELECT count(*) FROM listing")[0][0]))


def _check(database: Database) -> None:
    clash = database.read(
        "SELECT a.id, a.source, b.source FROM listing a JOIN listing b ON b.place = a.place + 1 AND b.id = a.id LIMIT 1"
    )
    for id, *texts in clash:
        files = " and ".join(str(_source(id, text).path) for text in texts)
        raise InputError(f"id={id}: two files would share it: {files}; remove or rename one of them")


def _row(source: Source) -> tuple[str, str]:
    if not source.id or source.id != source.id.strip() or not source.id.isprintable():
        rule = "an id is printable text without blanks at its ends; rename the file"
        raise InputError(f"id={source.id!r} of {printable(str(source.path))}: {rule}")
    texts = (source.speaker, source.chapter, source.sex, source.subset, source.text)
    return source.id, json.dumps([str(source.path), *texts, source.start, source.stop])


def _source(id: str, text: str) -> Source:
    path, *rest = json.loads(text)
    return Source(id, Path(path), *rest)


def parse_shard(text: str) -> tuple[int, int]:
    """`2/8`, the second of eight parts of the work, as (2, 8). Raises InputError."""
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
    if not found:
        raise InputError(f"shard={text}: must be I/N with 1 <= I <= N, for example 2/8 for the second of eight parts")
    return check_shard(int(found[1]), int(found[2]))


def check_shard(i: int, n: int) -> tuple[int, int]:
    """(i, n) where 1 <= i <= n; raises InputError for others."""
    if not 1 <= i <= n:
        raise InputError(f"shard={i}/{n}: must be I/N with 1 <= I <= N, for example 1/{max(n, 1)}")
    return i, n


def take_shard(sources: Iterable[Source], i: int, n: int) -> Listing:
    """Part i (1-based) of n: sorted by id, contiguous, of nearly equal size; the n parts together are all.

    Raises InputError unless 1 <= i <= n <= number of sources.
    """
    check_shard(i, n)
    listing = listed(sources)
    if n > len(listing):
        raise InputError(f"shard={i}/{n}: there are only {len(listing)} files to share out; use fewer shards")
    first, stop = ((place * len(listing)) // n for place in (i - 1, i))
    return listing[first:stop]


def common_folder(sources: Iterable[Source]) -> Path:
    """The deepest folder that holds the files of all sources."""
    folder, common = None, ""
    for source in sources:
        if source.path.parent != folder:
            folder = source.path.parent
            common = os.path.commonpath([folder.absolute(), common or folder.absolute()])
    return Path(common)
