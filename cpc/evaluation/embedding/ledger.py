"""What is done: settings of the features, a record for each complete block, the skipped files, the index of shards."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2s
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cpc.config import InputError
from cpc.corpus.shards import printable
from cpc.evaluation.embedding.formats import Format, npy_name, part_name
from cpc.evaluation.embedding.listing import File
from cpc.files import atomic, locked, write_json, write_text

_ROW_GROUP = 1 << 16


class Record(NamedTuple):
    """A complete block: id, path, frames and first row of each file that has features; path and reason of others.

    `notes` are path and note of files that were read though the length in their header is wrong.
    """

    rows: list[list[Any]]
    skipped: list[list[str]]
    notes: list[list[str]]


@dataclass(frozen=True)
class Ledger:
    """The records of OUT, in OUT/.embedding. They are what a run that was killed goes on from."""

    out: Path
    format: Format

    @property
    def _work(self) -> Path:
        return self.out / ".embedding"

    def claim(self, settings: Mapping[str, object], files: str) -> None:
        """Begin, or go on, with features of these settings and of the files with this digest.

        Raises:
            InputError: `out` holds features of another kind.
        """
        found = json.loads(json.dumps(settings))
        before = self._stored("settings.json")
        if before is None:
            write_json(self._work / "settings.json", found)  # arrays that are older than this are of unknown origin
        elif differing := [name for name in found if before.get(name) != found[name]]:
            raise self._taken(", ".join(differing))
        if self._stored("files.json") not in (None, files):
            if self.format != "npy":
                raise self._taken("files")
            shutil.rmtree(self._work / "blocks", ignore_errors=True)  # the blocks are others; the arrays stay
        write_json(self._work / "files.json", files)

    @contextmanager
    def lock(self, name: str, wait: bool = False) -> Iterator[None]:
        """Hold a lock for this process; the system lets go even after kill −9.

        Raises:
            InputError: `out` is no folder that can be written to, or another process holds the lock.
        """
        if self.out.exists() and not self.out.is_dir():
            raise InputError(f"out={self.out}: is a file; give a folder")
        try:
            self._work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"out={self.out}: cannot be written ({error.strerror}); give another folder") from None
        rule = "another process is embedding into it; wait for it to end, or give each its own --shard"
        with locked(self._work / f"{name}.lock", f"out={self.out}: {rule}", wait):
            yield

    def record(self, number: int, record: Record) -> None:
        """Say that a block is complete. Its features must be on the disk."""
        write_json(self._block(number), record._asdict())

    def is_complete(self, number: int, files: list[File]) -> bool:
        """Whether a block's record and all its features are there."""
        if not self._block(number).is_file():
            return False
        if self.format != "npy":
            return (self.out / part_name(self.format, number)).is_file()
        skipped = {path for path, _ in self._read(self._block(number)).skipped}
        return all((self.out / npy_name(file.id)).is_file() for file in files if file.shown not in skipped)

    def frames_written(self, file: File, source: Path) -> int | None:
        """Frames of a file's .npy if there is one that is newer than the file and than these settings."""
        if self.format != "npy":
            return None
        array = self.out / npy_name(file.id)
        try:
            settings = (self._work / "settings.json").stat().st_mtime_ns
            if array.stat().st_mtime_ns < max(source.stat().st_mtime_ns, settings):
                return None
            return int(np.load(array, mmap_mode="r").shape[0])
        except (OSError, ValueError, EOFError):
            return None

    def spool(self, file: File) -> Path:
        """Where the frames of a long file wait until it is known to be sound to its end."""
        return self._work / "spool" / blake2s(file.shown.encode(), digest_size=8).hexdigest()

    def records(self) -> Iterator[tuple[int, Record]]:
        """Every complete block, of all shards, in order."""
        for path in sorted((self._work / "blocks").glob("*.json")):
            yield int(path.stem), self._read(path)

    def finish(self) -> None:
        """Write skipped.tsv, notes.tsv and for shards index.parquet, over all blocks that are complete so far."""
        with self.lock("tables", wait=True):
            with atomic(self.out / "skipped.tsv") as file:
                file.write(b"path\treason\n")
                for _, record in self.records():
                    file.writelines(f"{path}\t{reason}\n".encode() for path, reason in record.skipped)
            if notes := [note for _, record in self.records() for note in record.notes]:
                write_text(
                    self.out / "notes.tsv", "".join(f"{path}\t{note}\n" for path, note in [("path", "note"), *notes])
                )
            else:
                (self.out / "notes.tsv").unlink(missing_ok=True)
            if self.format == "numpy-shards":
                self._write_index()

    def _write_index(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        strings = {"id": pa.string(), "path": pa.string(), "shard": pa.string()}
        schema = pa.schema(strings | {"offset": pa.int64(), "frames": pa.int64()})
        with atomic(self.out / "index.parquet") as file, pq.ParquetWriter(file, schema) as writer:
            for number, record in self.records():
                shard = part_name(self.format, number)
                rows = [(printable(id), path, shard, start, n) for id, path, n, start in sorted(record.rows)]
                if rows:
                    columns = [list(column) for column in zip(*rows, strict=True)]
                    writer.write_table(pa.table(columns, schema=schema), row_group_size=_ROW_GROUP)

    def _stored(self, name: str) -> Any:
        path = self._work / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def _taken(self, what: str) -> InputError:
        return InputError(f"out={self.out}: holds features of other {what}; remove it or name another folder")

    def _block(self, number: int) -> Path:
        return self._work / "blocks" / f"{number:06d}.json"

    @staticmethod
    def _read(path: Path) -> Record:
        return Record(**{"notes": [], **json.loads(path.read_text(encoding="utf-8"))})
