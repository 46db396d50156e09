"""What is too much to hold in memory, on disk for as long as the process lives: SQLite in a temporary file."""

from __future__ import annotations

import json
import sqlite3
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from cpc.config import InputError

_SETTINGS = ("cache_size=-2000", "temp_store=FILE", "journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE")
_CHUNK = 256  # rows that are read at once


class Database:
    """An SQLite database for threads in turn, with 2 MB of memory; the system removes its file, even after kill −9.

    The file lies where SQLite puts temporary ones: in TMPDIR if it is set, else in /var/tmp or /tmp. Raises
    InputError if there is no room.
    """

    def __init__(self, *statements: str) -> None:
        self._lock = Lock()
        with _reporting_full_disk():
            self._connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            for statement in (*(f"PRAGMA {setting}" for setting in _SETTINGS), "BEGIN", *statements):
                self._connection.execute(statement)
        weakref.finalize(self, self._connection.close)

    def run(self, statement: str) -> None:
        """Run a statement without values."""
        with self._lock, _reporting_full_disk():
            self._connection.execute(statement)

    def write(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Run a statement for each row of its values: any number, which must not come from this database."""
        with self._lock, _reporting_full_disk():
            self._connection.executemany(statement, rows)

    def read(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """What a query finds, at once."""
        with self._lock, _reporting_full_disk():
            return self._connection.execute(statement, values).fetchall()


@contextmanager
def _reporting_full_disk() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        remedy = "set TMPDIR to a folder on a disk with room"
        raise InputError(f"temporary files: lists of files cannot be kept there ({error}); {remedy}") from error


class Spool:
    """Text keys and JSON values: a dictionary whose size costs no memory. It is read in the order of its keys."""

    def __init__(self) -> None:
        self._database = Database("CREATE TABLE spool (key BLOB PRIMARY KEY, value TEXT) WITHOUT ROWID")

    def __setitem__(self, key: str, value: Any) -> None:
        self._database.write("INSERT OR REPLACE INTO spool VALUES (?, ?)", [(_encode(key), json.dumps(value))])

    def get(self, key: str) -> Any:
        """The value of a key, None if there is none."""
        found = self._database.read("SELECT value FROM spool WHERE key = ?", _encode(key))
        return json.loads(found[0][0]) if found else None

    def __contains__(self, key: str) -> bool:
        return bool(self._database.read("SELECT 1 FROM spool WHERE key = ?", _encode(key)))

    def __len__(self) -> int:
        return int(self._database.read("SELECT count(*) FROM spool")[0][0])

    def values(self) -> Iterator[Any]:
        """All values in the order of their keys."""
        last, after = b"", ">="
        while rows := self._database.read(
            f"SELECT key, value FROM spool WHERE key {after} ? ORDER BY key LIMIT {_CHUNK}", last
        ):
            yield from (json.loads(value) for _, value in rows)
            last, after = rows[-1][0], ">"


def _encode(key: str) -> bytes:
    """UTF-8 sorts as text does; names that are not UTF-8 keep their odd bytes as surrogates."""
    return key.encode("utf-8", "surrogatepass")
