"""A packed corpus, read only: rows of a manifest and their audio by memory map."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int16
from numpy import ndarray

from cpc.config import InputError
from cpc.data import shards
from cpc.data.alignment import Alignment

MOST_OPEN = 256  # memory maps held at once
HEADER = 128  # bytes of NumPy's header before the samples of a shard: always these for one axis of <i2


class Corpus:
    """Utterances sorted by id. `Corpus.open(path)` reads a few numbers; all else is read when asked for."""

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        self.path = path
        self.sample_rate: int = info["sample_rate"]  # Hz
        self.digest: str = info["digest"]  # sha256 of the manifest's rows and the audio
        self._map = lru_cache(MOST_OPEN)(partial(_map, path))
        numbers = self._columns("shard", "offset", "samples")
        self.shard: Int[ndarray, " row"] = numbers["shard"].to_numpy()  # that holds each utterance,
        self.offset: Int[ndarray, " row"] = numbers["offset"].to_numpy()  # from which of its samples,
        self.samples: Int[ndarray, " row"] = numbers["samples"].to_numpy()  # how many

    @classmethod
    def open(cls, path: str | Path) -> Corpus:
        """Open a packed corpus. Raises InputError that says what is missing and how to make one."""
        path = Path(path)
        for name in ("corpus.json", "manifest.parquet", "shards"):
            if not (path / name).exists():
                remedy = f"pack one with: python -m data_prep.folder AUDIO_FOLDER {path}"
                raise InputError(f"corpus={path}: not a packed corpus ({name} is missing); {remedy}")
        info = json.loads((path / "corpus.json").read_text(encoding="utf-8"))
        if info.get("format") != shards.FORMAT:
            rule = f"format {info.get('format')} is not {shards.FORMAT}, which this version reads; pack it again"
            raise InputError(f"corpus={path}: {rule}")
        return cls(path, info)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        hours = self.samples.sum() / self.sample_rate / 3600
        return f"Corpus({str(self.path)!r}, {len(self)} utterances, {hours:.2f} h)"

    # Columns of the manifest: arrow on the first use, Python strings only where a whole list is asked for.

    def _columns(self, *names: str) -> Any:
        import pyarrow.parquet as pq

        return pq.ParquetFile(self.path / "manifest.parquet", memory_map=True).read(columns=list(names))

    def column(self, name: str) -> Any:
        """A text column as an arrow array: a million rows of it are no million Python strings."""
        return self._columns(name)[name].combine_chunks()

    def _strings(self, name: str) -> list[str]:
        return list(self._columns(name)[name].to_pylist())

    @cached_property
    def _ids(self) -> Any:
        return self.column("id")

    @cached_property
    def ids(self) -> list[str]:
        return self._strings("id")

    @cached_property
    def speakers(self) -> list[str]:
        return self._strings("speaker")

    @cached_property
    def chapters(self) -> list[str]:
        return self._strings("chapter")

    @cached_property
    def sexes(self) -> list[str]:
        return self._strings("sex")

    @cached_property
    def subsets(self) -> list[str]:
        return self._strings("subset")

    @cached_property
    def texts(self) -> list[str]:
        return self._strings("text")

    def groups(self, column: str) -> tuple[list[str], Int[ndarray, " row"]]:
        """The values of a text column (speaker, chapter, …), sorted, each once, and which of them each row has.

        For sums over the whole corpus: there are Python strings of the values only.
        """
        encoded = self.column(column).dictionary_encode()
        values = np.asarray(encoded.dictionary.to_pylist(), dtype=object)
        order = np.argsort(values)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        return values[order].tolist(), place[encoded.indices.to_numpy()]

    # Rows

    def row(self, id: str) -> int:
        """The row of one utterance. Raises InputError if it is unknown."""
        if (row := shards.find_sorted(self._ids, id)) is None:
            raise InputError(f"id={id}: not in {self.path}, which holds {self._ids[0]} to {self._ids[-1]}")
        return row

    def rows(self, split: str | Path | Sequence[str]) -> Int[ndarray, " row"]:
        """Rows of a split by its name, of a file of ids by its path, or of a sequence of ids, in their order.

        Raises InputError for an unknown split (with the nearest name), for unknown ids (how many, examples)
        and for an empty list.
        """
        if not isinstance(split, str | Path):
            return self._find(list(split), "ids")
        path = self.path / "splits" / f"{split}.txt"
        if not path.is_file():
            path = Path(split)
        if not path.is_file():
            raise self._no_split(split)
        return self._find(shards.read_ids(path), f"split={split}")

    def _no_split(self, split: str | Path) -> InputError:
        known = self.splits()
        near = difflib.get_close_matches(str(split), known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        names = ", ".join(known) or "none"
        return InputError(f"split={split}: no such split of {self.path} and no such file{hint} (splits: {names})")

    def _find(self, ids: list[str], what: str) -> Int[ndarray, " row"]:
        import pyarrow as pa
        import pyarrow.compute as pc

        rows = pc.index_in(pa.array(ids, pa.string()), value_set=self._ids)
        if rows.null_count:
            unknown = [id for id, row in zip(ids, rows.to_pylist(), strict=True) if row is None]
            counts = f"{len(unknown)} of {len(ids)} ids are not in {self.path}"
            raise InputError(f"{what}: {counts}, for example {', '.join(unknown[:3])}; remove them or pack those files")
        if not ids:
            raise InputError(f"{what}: holds no ids; name at least one utterance")
        return np.asarray(rows.to_numpy(), dtype=np.int64)

    def splits(self) -> list[str]:
        """Names of the splits that came with the corpus."""
        return sorted(path.stem for path in (self.path / "splits").glob("*.txt"))

    def labels(self, scheme: str = "phones") -> Alignment:
        """The alignment of that name. Raises InputError if the corpus has none."""
        path = self.path / "labels" / f"{scheme}.parquet"
        if not path.with_suffix(".json").is_file() or not path.is_file():
            known = ", ".join(sorted(found.stem for found in path.parent.glob("*.json"))) or "none"
            raise InputError(f"labels={scheme}: {self.path} has no such labels (it has: {known})")
        return Alignment(path)

    # Audio

    def waveform(self, row: int, start: int = 0, stop: int | None = None) -> Int16[ndarray, " sample"]:
        """Samples start..stop of one utterance: a read-only view of the memory map, nothing is copied."""
        length = int(self.samples[row])
        stop = length if stop is None else stop
        if not 0 <= start <= stop <= length:
            raise ValueError(f"start={start}, stop={stop}: must lie in order within 0..{length} of row {row}")
        offset = int(self.offset[row])
        return self._map(int(self.shard[row]))[offset + start : offset + stop]

    def gather(
        self,
        rows: Int[ndarray, " batch"],
        starts: Int[ndarray, " batch"],
        samples: int,
        out: Int16[ndarray, "batch samples"],
    ) -> None:
        """Copy a batch of windows, `samples` long from `starts` within `rows`, into `out` (C order).

        By plain reads, not by memory map: they cost the same in a corpus of thousands of shards, and from a disk
        they read the windows alone, where page faults at random places read whole megabytes ahead.

        Raises InputError for a shard that is shorter than the manifest says.
        """
        if np.any(starts < 0) or np.any(starts + samples > self.samples[rows]):
            raise ValueError(f"starts, stop=starts + {samples}: must lie within the utterances of rows {rows.tolist()}")
        places = HEADER + out.itemsize * (self.offset[rows] + starts)
        for window, shard, place in zip(out, self.shard[rows].tolist(), places.tolist(), strict=True):
            path = shards.shard_path(self.path, shard)
            with path.open("rb", buffering=0) as file:
                file.seek(place)
                if file.readinto(window) != window.nbytes:
                    raise InputError(f"corpus={self.path}: {path.name} is cut short; copy or pack the corpus again")


def _map(corpus: Path, shard: int) -> Int16[ndarray, " sample"]:
    samples: ndarray = np.load(shards.shard_path(corpus, shard), mmap_mode="r")
    return samples.view(np.ndarray)  # still the memory map, without the cost of slicing a np.memmap
