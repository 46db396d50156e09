"""Features on disk in three formats, written block by block: a .npy a file, a Parquet data set, or NumPy shards."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Literal, NamedTuple, assert_never

import numpy as np
from jaxtyping import Float32

from cpc.corpus.shards import printable
from cpc.evaluation.embedding.listing import File
from cpc.files import atomic

Format = Literal["npy", "parquet", "numpy-shards"]
FORMATS: tuple[Format, ...] = ("npy", "parquet", "numpy-shards")
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
        case _:
            assert_never(format)


def part_name(format: Format, number: int) -> str:
    """The file of a block below OUT, for the formats that have one."""
    return f"features/part-{number:06d}.parquet" if format == "parquet" else f"features/{number:06d}.npy"


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
