"""Features on disk, written block by block: a .npy a file, a Parquet data set, NumPy shards, or what other tools read.

Those are Kaldi's archives (ark and scp), HDF5 and WebDataset's tars.
"""

import importlib.util
import json
import os
import shutil
import struct
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from hashlib import blake2s
from pathlib import Path
from tempfile import SpooledTemporaryFile, gettempdir
from typing import IO, Any, Literal, NamedTuple, assert_never

import numpy as np
from jaxtyping import Float32

from cpc.audio.location import Remote
from cpc.config import InputError
from cpc.data.remote import cache_folder
from cpc.data.shards import printable
from cpc.evaluation.embed.inputs import File
from cpc.io import WRITER, atomic, atomic_path, locked, write_json, write_text

Format = Literal["npy", "parquet", "numpy-shards", "kaldi", "hdf5", "webdataset"]
FORMATS: tuple[Format, ...] = ("npy", "parquet", "numpy-shards", "kaldi", "hdf5", "webdataset")
_ENDINGS: dict[Format, str] = {
    "parquet": ".parquet",
    "numpy-shards": ".npy",
    "kaldi": ".ark",
    "hdf5": ".h5",
    "webdataset": ".tar",
}
_WRITERS = 8  # .npy files on their way to the disk at a time: each waits for it


class Frames(NamedTuple):
    """The frames of one file: how many, and their (frame, dim) arrays one after the other."""

    file: File
    length: int
    pieces: Callable[[], Iterable[Float32[np.ndarray, "frame dim"]]]


Add = Callable[[Sequence[Frames]], list[int]]  # writes the frames of several files; where each begins


def open_part(format: Format, out: Path, number: int, dim: int) -> AbstractContextManager[Add]:
    """Write the features of a block of files. Shards and parts appear whole, when the block ends without an error."""
    match format:
        case "npy":
            return _npy_files(out, dim)
        case "parquet":
            return _parquet_part(out / part_name(format, number), dim)
        case "numpy-shards":
            return _numpy_shard(out / part_name(format, number), dim)
        case "kaldi":
            return _kaldi_archive(out / part_name(format, number), dim)
        case "hdf5":
            return _hdf5_file(out / part_name(format, number), dim)
        case "webdataset":
            return _tar(out / part_name(format, number), dim)
        case _:
            assert_never(format)


def part_name(format: Format, number: int) -> str:
    """The file of a block below OUT, for the formats that have one."""
    return f"features/{'part-' if format == 'parquet' else ''}{number:06d}{_ENDINGS[format]}"


def check_format(format: str) -> None:
    """Raises InputError for a format that there is not, or whose library is missing."""
    if format not in FORMATS:
        raise InputError(f"format={format}: must be one of {', '.join(FORMATS)}")
    if format == "hdf5" and importlib.util.find_spec("h5py") is None:
        raise InputError("format=hdf5: needs h5py; install it with: pip install h5py")


def key_of(id: str, barred: str = "") -> str:
    """The name of a file in an archive: its id, with white space, %, and what is barred there as %XX."""
    coded = {letter for letter in id if letter.isspace() or letter in "%" + barred}
    return "".join("".join(f"%{byte:02X}" for byte in x.encode()) if x in coded else x for x in id)


def npy_name(id: str) -> str:
    """The array of a file below OUT."""
    return f"{id}.npy"


@contextmanager
def _npy_files(out: Path, dim: int) -> Iterator[Add]:
    def save(frames: Frames) -> int:
        with atomic(out / npy_name(frames.file.id)) as file:
            _write_header(file, frames.length, dim)
            for piece in frames.pieces():
                file.write(np.ascontiguousarray(piece).data)
        return 0

    with ThreadPoolExecutor(_WRITERS) as pool:
        yield lambda found: list(pool.map(save, found))


@contextmanager
def _numpy_shard(path: Path, dim: int) -> Iterator[Add]:
    """One array of all frames of the block; `index.parquet` says which are whose."""
    filled = 0
    with atomic(path) as file:
        _write_header(file, 0, dim)

        def add(found: Sequence[Frames]) -> list[int]:
            nonlocal filled
            starts = []
            for frames in found:
                starts.append(filled)
                filled += frames.length
                for piece in frames.pieces():
                    file.write(np.ascontiguousarray(piece).data)
            return starts

        yield add
        file.seek(0)
        _write_header(file, filled, dim)


@contextmanager
def _kaldi_archive(path: Path, dim: int) -> Iterator[Add]:
    """Kaldi's binary float matrices, each after its key; where each begins is what OUT/feats.scp says.

    The format of one (Kaldi's matrix/kaldi-matrix.cc): \\0B, "FM ", then rows and columns, each after the byte 4.
    """
    with atomic(path) as file:

        def add(found: Sequence[Frames]) -> list[int]:
            starts = []
            for frames in found:
                file.write(f"{key_of(printable(frames.file.id))} ".encode())
                starts.append(file.tell())
                file.write(b"\0BFM " + struct.pack("<bibi", 4, frames.length, 4, dim))
                for piece in frames.pieces():
                    file.write(np.ascontiguousarray(piece, "<f4").data)
            return starts

        yield add


@contextmanager
def _hdf5_file(path: Path, dim: int) -> Iterator[Add]:
    """A data set frames × dim a file, named by its id; / in ids is %2F, so that no name is a group of another's."""
    import h5py

    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:

        def add(found: Sequence[Frames]) -> list[int]:
            for frames in found:
                data = file.create_dataset(key_of(printable(frames.file.id), "/"), (frames.length, dim), "<f4")
                start = 0
                for piece in frames.pieces():
                    data[start : start + len(piece)] = piece
                    start += len(piece)
                data.attrs["path"] = printable(frames.file.path)
            return [0] * len(found)

        yield add


@contextmanager
def _tar(path: Path, dim: int) -> Iterator[Add]:
    """KEY.npy a file, as WebDataset groups a sample by what is before the first dot: dots in ids are %2E."""
    with atomic(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(found: Sequence[Frames]) -> list[int]:
            for frames in found:
                with SpooledTemporaryFile(1 << 26) as array:
                    _write_header(array, frames.length, dim)
                    for piece in frames.pieces():
                        array.write(np.ascontiguousarray(piece).data)
                    member = tarfile.TarInfo(f"{key_of(printable(frames.file.id), '.')}.npy")
                    member.size = array.tell()
                    array.seek(0)
                    tar.addfile(member, array)
            return [0] * len(found)

        yield add


@contextmanager
def _parquet_part(path: Path, dim: int) -> Iterator[Add]:
    """A row a file, of a long file a row a piece: its first frame is `start`, `features` its frames × dim in a row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields: list[tuple[str, pa.DataType]] = [("id", pa.string()), ("path", pa.string()), ("start", pa.int64())]
    fields += [("frames", pa.int64()), ("dim", pa.int32()), ("features", pa.large_list(pa.float32()))]
    schema = pa.schema(fields)
    # Floats gain nothing from dictionaries or compression.
    with atomic(path) as file, pq.ParquetWriter(file, schema, use_dictionary=False, compression="none") as writer:

        def add(found: Sequence[Frames]) -> list[int]:
            for rows in _row_groups(found):
                ends = np.cumsum([piece.size for _, _, piece in rows])
                values = pa.array(np.concatenate([piece.ravel() for _, _, piece in rows]))
                columns = [
                    [printable(file.id) for file, _, _ in rows],
                    [printable(file.path) for file, _, _ in rows],
                    [start for _, start, _ in rows],
                    [len(piece) for _, _, piece in rows],
                    [dim] * len(rows),
                    pa.LargeListArray.from_arrays(pa.array([0, *ends.tolist()], pa.int64()), values),
                ]
                writer.write_table(pa.table(columns, schema=schema))
            return [0] * len(found)

        yield add


def _row_groups(found: Sequence[Frames]) -> Iterator[list[tuple[File, int, Float32[np.ndarray, "frame dim"]]]]:
    """File, first frame and frames of each row: those of a batch together, the pieces of a long file one by one."""
    together = []
    for frames in found:
        start = 0
        for piece in frames.pieces():
            if len(piece) < frames.length:
                yield [(frames.file, start, piece)]
            else:
                together.append((frames.file, 0, piece))
            start += len(piece)
    if together:
        yield together


def _write_header(file: IO[bytes], frames: int, dim: int) -> None:
    # NumPy pads a header so that it keeps its size when the first axis grows.
    header = {"descr": "<f4", "fortran_order": False, "shape": (frames, dim)}
    np.lib.format.write_array_header_1_0(file, header)


# --- What is done: settings of the features, a record for each complete block, the skipped files, the index of shards.


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
    """The records of OUT, in OUT/.embedding. They are what a run that was killed resumes from.

    OUT may be a URL. Files are complete there before their record is, so that a record is enough to know; and a lock
    keeps other processes of this machine away, but not other machines.
    """

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
            if self.format != "npy" or isinstance(self.out, Remote):
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
        folder = self._work
        if isinstance(self.out, Remote):
            folder = cache_folder() / "embedding" / blake2s(str(self.out).encode(), digest_size=8).hexdigest()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"out={folder}: cannot be written ({error.strerror}); give another folder") from None
        rule = "another process is embedding into it; wait for it to end, or give each its own --shard"
        with locked(folder / f"{name}.lock", f"out={self.out}: {rule}", wait):
            yield

    def record(self, number: int, record: Record) -> None:
        """Say that a block is complete. Its features must be on the disk."""
        write_json(self._block(number), record._asdict())

    def is_complete(self, number: int, files: list[File]) -> bool:
        """Whether a block's record and all its features are there."""
        if not self._block(number).is_file():
            return False
        if isinstance(self.out, Remote):
            return True
        if self.format != "npy":
            return (self.out / part_name(self.format, number)).is_file()
        skipped = {path for path, _ in self._read(self._block(number)).skipped}
        return all((self.out / npy_name(file.id)).is_file() for file in files if file.shown not in skipped)

    def frames_written(self, file: File, source: Path) -> int | None:
        """Frames of a file's .npy if there is one that is newer than the file and than these settings."""
        if self.format != "npy" or isinstance(self.out, Remote):
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
        name = blake2s(file.shown.encode(), digest_size=8).hexdigest()
        if isinstance(self.out, Remote):
            return Path(gettempdir(), f"cpc-{name}-{os.getpid()}")
        return self._work / "spool" / f"{name}{os.environ.get(WRITER, '')}"

    def records(self) -> Iterator[tuple[int, Record]]:
        """Every complete block, of all shards, in order."""
        if isinstance(self.out, Remote):
            self.out.refresh()
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
            if self.format == "kaldi":
                self._write_scp()

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

    def _write_scp(self) -> None:
        """KEY ARCHIVE:OFFSET a line; archives by their path in OUT, where readers are started."""
        with atomic(self.out / "feats.scp") as file:
            for number, record in self.records():
                archive = part_name(self.format, number)
                for id, _, _, start in sorted(record.rows):
                    file.write(f"{key_of(printable(id))} {archive}:{start}\n".encode())

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
