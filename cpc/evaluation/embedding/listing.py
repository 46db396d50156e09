"""Which files are to be embedded: any number of them, in one order, never all in memory, cut into blocks of work."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cpc.audio import walk_audio
from cpc.config import InputError
from cpc.corpus.shards import printable
from cpc.corpus.spool import Database

BLOCK_FILES, BLOCK_BYTES = 512, 1 << 26  # of a block at most: what a kill costs, and what one part or shard holds
_CHUNK = 512  # files that are read from the database at once


class File(NamedTuple):
    """An audio file below the source. `id` is its path without the suffix, `size` its bytes (−1 if unknown)."""

    id: str
    path: str
    size: int

    @property
    def shown(self) -> str:
        """The path as one printable line without tabs."""
        return printable(self.path).replace("\t", "\\t").replace("\n", "\\n")


@dataclass(frozen=True)
class Listing:
    """The files of a source, sorted by id, in a database on disk. `digest` covers their paths and sizes."""

    root: Path
    database: Database
    files: int
    digest: str

    def blocks(self, first: int = 1, every: int = 1) -> Iterator[tuple[int, list[File]]]:
        """Number and files of each block, or of every so manieth from the `first` (counted from 1).

        Where one block ends and the next begins depends on the files alone.
        """
        for number, block in enumerate(_cut(_read(self.database))):
            if number % every == first - 1:
                yield number, block


def listed(source: Path) -> Listing:
    """The listing of a folder, subfolders included, or of one file.

    Raises:
        InputError: there is no audio at `source`, a folder cannot be read, or two files have the same id.
    """
    root = source if source.is_dir() else source.parent
    database = Database(
        "CREATE TABLE given (key BLOB, file TEXT)", "CREATE TABLE listing (place INTEGER PRIMARY KEY, file TEXT)"
    )
    database.write("INSERT INTO given VALUES (?, ?)", (_row(_file(path, root)) for path in walk_audio(source)))
    database.run("INSERT INTO listing (file) SELECT file FROM given ORDER BY key")
    database.run("DROP TABLE given")
    sha, files, before = hashlib.sha256(), 0, None
    for file in _read(database):
        if before is not None and before.id == file.id:
            both = f"{root / before.path} and {root / file.path}"
            raise InputError(f"id={file.id}: two files would share it: {both}; rename one of them")
        sha.update(json.dumps(file).encode() + b"\n")
        files, before = files + 1, file
    return Listing(root, database, files, sha.hexdigest())


def _file(path: Path, root: Path) -> File:
    below = path.relative_to(root).as_posix()
    try:
        size = path.stat().st_size
    except OSError:  # a link that leads nowhere: decoding says so
        size = -1
    return File(os.path.splitext(below)[0], below, size)  # noqa: PTH122 (a million times)


def _row(file: File) -> tuple[bytes, str]:
    """UTF-8 sorts as text does; names that are not UTF-8 keep their odd bytes as surrogates."""
    return file.id.encode("utf-8", "surrogatepass"), json.dumps(file)


def _read(database: Database) -> Iterator[File]:
    last = 0
    while rows := database.read("SELECT place, file FROM listing WHERE place > ? ORDER BY place LIMIT ?", last, _CHUNK):
        yield from (File(*json.loads(text)) for _, text in rows)
        last = rows[-1][0]


def _cut(files: Iterable[File]) -> Iterator[list[File]]:
    """Runs of files within the limits of a block; a larger file alone."""
    block: list[File] = []
    filled = 0
    for file in files:
        if block and (len(block) == BLOCK_FILES or filled + file.size > BLOCK_BYTES):
            yield block
            block, filled = [], 0
        block.append(file)
        filled += file.size
    if block:
        yield block
