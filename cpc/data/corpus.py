"""A packed corpus, read only: rows of a manifest and their audio by memory map."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from functools import cached_property, lru_cache
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int16
from numpy import ndarray

from cpc.audio.location import Remote, locate
from cpc.config import InputError
from cpc.data import remote, shards
from cpc.data.alignment import Alignment

MOST_OPEN = 256  # memory maps held at once
HEADER = 128  # bytes of NumPy's header before the samples of a shard: always these for one axis of <i2


class Corpus:
    """Utterances sorted by id. `Corpus.open(path)` reads a few numbers; all else is read when asked for.

    One packed folder, or several that are read as one: `parts` are the corpora of the single folders.

    Args:
        folders: of packed corpora.
        infos: what corpus.json of each says.
    """

    def __init__(self, folders: Sequence[Path], infos: Sequence[dict[str, Any]]) -> None:
        self.folders = list(folders)
        self.path = folders[0] if len(folders) == 1 else Path(",".join(map(str, folders)))
        self.sample_rate: int = infos[0]["sample_rate"]  # Hz
        self.digest: str = _digest(infos)  # sha256 of the manifest's rows and the audio
        self._copied = any(map(remote.is_copy, folders)) and remote.cache_size() is not None
        self._map = lru_cache(remote.max_open_files(MOST_OPEN) if self._copied else MOST_OPEN)(self._open_shard)
        self._order: Any = None
        tables = [_read(folder, ("shard", "offset", "samples")) for folder in folders]
        shard, self.offset, self.samples = (
            np.concatenate([table[name].to_numpy() for table in tables]) for name in ("shard", "offset", "samples")
        )
        # Shards are counted through all folders: those of folder i begin at number _first[i].
        self._first = np.cumsum([0, *(table["shard"].to_numpy().max(initial=-1) + 1 for table in tables)])[:-1]
        self.shard: Int[ndarray, " row"] = shard + np.repeat(self._first, [len(table) for table in tables])
        if len(folders) > 1:
            self._order = _sorted_rows(folders)
            self.shard, self.offset, self.samples = (x[self._order] for x in (self.shard, self.offset, self.samples))

    @classmethod
    def open(cls, path: str | Path | Sequence[str | Path]) -> Corpus:
        """Open a packed corpus, or several as one: a sequence of folders, or their paths with commas between.

        A URL (s3://…, https://…) is a folder too: what is read of it is kept in a local copy (`cpc.data.remote`).

        Several are as one that was packed of all their files: rows sorted by id, splits of one name put together,
        and labels of one name, which need one inventory.

        Args:
            path: a folder or URL, or several.

        Returns:
            the corpus.

        Raises:
            InputError: a folder is not a packed corpus, sample rates differ, or an id is in two of them.
        """
        if isinstance(path, str | Path):
            together = "," in str(path) and not Path(path).exists()
            given = str(path).split(",") if together else [path]
        else:
            given = list(path)
        folders = [_folder(str(each).strip()) for each in given]
        if not folders:
            raise InputError("corpus=[]: name at least one packed corpus")
        infos = [_read_info(folder) for folder in folders]
        if len({info["sample_rate"] for info in infos}) > 1:
            pairs = zip(folders, infos, strict=True)
            rates = ", ".join(f"{folder} is at {info['sample_rate']} Hz" for folder, info in pairs)
            raise InputError(f"corpus={','.join(map(str, folders))}: {rates}; pack them again at one rate")
        return cls(folders, infos)

    @cached_property
    def parts(self) -> list[Corpus]:
        """The corpora of the single folders."""
        return [self] if len(self.folders) == 1 else [Corpus.open(folder) for folder in self.folders]

    def shard_path(self, shard: int) -> Path:
        """The file of a shard.

        Args:
            shard: its number in the column `shard`.

        Returns:
            its path, where there may be nothing yet if the corpus lies at a URL.
        """
        part = int(np.searchsorted(self._first, shard, side="right")) - 1
        return shards.shard_path(self.folders[part], shard - int(self._first[part]))

    def fetch_shard(self, shard: int) -> None:
        """Fetch a shard that is missing, if the corpus lies at a URL.

        Args:
            shard: its number in the column `shard`.

        Raises:
            InputError: it is missing, and cannot be fetched.
        """
        part = int(np.searchsorted(self._first, shard, side="right")) - 1
        remote.fetch_shard(self.folders[part], shard - int(self._first[part]))

    def _open_shard(self, shard: int) -> Int16[ndarray, " sample"]:
        path = self.shard_path(shard)
        while True:
            if not path.exists():
                self.fetch_shard(shard)
            try:
                samples: np.memmap[Any, Any] = np.load(path, mmap_mode="r")
                if self._copied:
                    remote.hold(path, samples)
                break
            except FileNotFoundError:  # evicted in between
                if not self._copied:
                    raise
        return samples.view(np.ndarray)  # still the memory map, without the cost of slicing a np.memmap

    @property
    def name(self) -> str:
        """The names of the folders."""
        return ",".join(folder.resolve().name for folder in self.folders)

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        hours = self.samples.sum() / self.sample_rate / 3600
        return f"Corpus({str(self.path)!r}, {len(self)} utterances, {hours:.2f} h)"

    # Columns of the manifest: arrow on the first use, Python strings only where a whole list is asked for.

    def _columns(self, *names: str) -> Any:
        if self._order is None:
            return _read(self.folders[0], names)
        import pyarrow as pa

        return pa.concat_tables([_read(folder, names) for folder in self.folders]).take(pa.array(self._order))

    def column(self, name: str) -> Any:
        """A text column as an arrow array: a million rows of it are no million Python strings.

        Args:
            name: id, speaker, chapter, sex, subset or text.

        Returns:
            the arrow array, in the order of the rows.
        """
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

        Args:
            column: speaker, chapter, sex, subset or text.

        Returns:
            the values, and the place of each row's value among them (row).
        """
        encoded = self.column(column).dictionary_encode()
        values = np.asarray(encoded.dictionary.to_pylist(), dtype=object)
        order = np.argsort(values)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        return values[order].tolist(), place[encoded.indices.to_numpy()]

    # Rows

    def row(self, id: str) -> int:
        """The row of one utterance.

        Args:
            id: of the utterance.

        Returns:
            its row.

        Raises:
            InputError: it is unknown.
        """
        if (row := shards.find_sorted(self._ids, id)) is None:
            raise InputError(f"id={id}: not in {self.path}, which holds {self._ids[0]} to {self._ids[-1]}")
        return row

    def rows(self, split: str | Path | Sequence[str]) -> Int[ndarray, " row"]:
        """Rows of a split.

        Args:
            split: its name, the path of a file of ids, or a sequence of ids.

        Returns:
            the rows, in the order of the ids (row).

        Raises:
            InputError: an unknown split (with the nearest name), unknown ids (how many, examples), or an empty list.
        """
        if not isinstance(split, str | Path):
            return self._find(list(split), "ids")
        paths = [path for folder in self.folders if (path := folder / "splits" / f"{split}.txt").is_file()]
        if not paths and not Path(split).is_file():
            raise self._no_split(split)
        lists = [shards.read_ids(path) for path in paths or [Path(split)]]
        return self._find(lists[0] if len(lists) == 1 else sorted(chain.from_iterable(lists)), f"split={split}")

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
        """The splits that came with the corpus.

        Returns:
            their names, sorted.
        """
        return sorted({path.stem for folder in self.folders for path in (folder / "splits").glob("*.txt")})

    def schemes(self) -> list[str]:
        """The labels that it has.

        Returns:
            their names, sorted.
        """
        return sorted({path.stem for folder in self.folders for path in (folder / "labels").glob("*.json")})

    def labels(self, scheme: str = "phones") -> Alignment:
        """The alignment of that name.

        Args:
            scheme: name of the labels.

        Returns:
            intervals in seconds with their classes, by utterance.

        Raises:
            InputError: the corpus has none of that name.
        """
        paths = [folder / "labels" / f"{scheme}.parquet" for folder in self.folders]
        found = [path for path in paths if path.with_suffix(".json").is_file() and path.is_file()]
        if not found:
            known = ", ".join(self.schemes()) or "none"
            raise InputError(f"labels={scheme}: {self.path} has no such labels (it has: {known})")
        return Alignment(*found)

    # Audio

    def waveform(self, row: int, start: int = 0, stop: int | None = None) -> Int16[ndarray, " sample"]:
        """Samples of one utterance: a read-only view of the memory map, nothing is copied.

        Args:
            row: of the utterance.
            start: the first sample.
            stop: the one after the last; the end by default.

        Returns:
            int16 (sample).

        Raises:
            ValueError: samples beyond the utterance.
        """
        length = int(self.samples[row])
        stop = length if stop is None else stop
        if not 0 <= start <= stop <= length:
            raise ValueError(f"start={start}, stop={stop}: must lie in order within 0..{length} of row {row}")
        offset = int(self.offset[row])
        return self._map(int(self.shard[row]))[offset + start : offset + stop]

    def _opened(self, path: Path, shard: int) -> FileIO:
        """The file of a shard, fetched first where it is missing; what is open stays readable when it is evicted."""
        while True:
            try:
                file = path.open("rb", buffering=0)
            except FileNotFoundError:
                self.fetch_shard(shard)
                continue
            if self._copied:
                remote.touch(path)
            return file

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

        Args:
            rows: the utterance of each window (batch).
            starts: the first sample of each window within its utterance (batch).
            samples: of a window.
            out: int16 (batch, samples), where they go.

        Raises:
            ValueError: a window that leaves its utterance.
            InputError: a shard is shorter than the manifest says.
        """
        if np.any(starts < 0) or np.any(starts + samples > self.samples[rows]):
            raise ValueError(f"starts, stop=starts + {samples}: must lie within the utterances of rows {rows.tolist()}")
        places = HEADER + out.itemsize * (self.offset[rows] + starts)
        for window, shard, place in zip(out, self.shard[rows].tolist(), places.tolist(), strict=True):
            path = self.shard_path(shard)
            with self._opened(path, shard) as file:
                file.seek(place)
                if file.readinto(window) != window.nbytes:
                    raise InputError(f"corpus={self.path}: {path.name} is cut short; copy or pack the corpus again")


def _folder(text: str) -> Path:
    """The folder of a corpus, of a local copy if it lies at a URL."""
    place = locate(text)
    return remote.local_copy(text) if isinstance(place, Remote) else place


def _read(folder: Path, columns: Sequence[str]) -> Any:
    """Columns of one manifest, as an arrow table."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(folder / "manifest.parquet", memory_map=True).read(columns=list(columns))


def _read_info(folder: Path) -> dict[str, Any]:
    """corpus.json of one folder, which has all that makes it a corpus."""
    for name in ("corpus.json", "manifest.parquet", "shards"):
        if not (folder / name).exists():
            remedy = f"pack one with: cpc data folder AUDIO_FOLDER {folder}"
            raise InputError(f"corpus={folder}: not a packed corpus ({name} is missing); {remedy}")
    info: dict[str, Any] = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
    if info.get("format") != shards.FORMAT:
        rule = f"format {info.get('format')} is not {shards.FORMAT}, which this version reads; pack it again"
        raise InputError(f"corpus={folder}: {rule}")
    return info


def _digest(infos: Sequence[dict[str, Any]]) -> str:
    """That of one folder, or of several whatever their order."""
    if len(infos) == 1:
        return str(infos[0]["digest"])
    parts = json.dumps([infos[0]["sample_rate"], *sorted(info["digest"] for info in infos)])
    return hashlib.sha256(parts.encode()).hexdigest()


def _sorted_rows(folders: Sequence[Path]) -> Int[ndarray, " row"]:
    """The order by id of the rows of all folders, counted through them. Raises InputError for an id in two of them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    ids = pa.chunked_array([_read(folder, ["id"])["id"].combine_chunks() for folder in folders], pa.string())
    order: ndarray = pc.sort_indices(ids).to_numpy().astype(np.int64)
    ordered = ids.take(pa.array(order))
    twice = ordered[1:].filter(pc.equal(ordered[1:], ordered[:-1]))
    if len(twice):
        examples = ", ".join(map(str, twice[:3].to_pylist()))
        where = ",".join(map(str, folders))
        rule = f"{len(twice)} ids are in two of them, for example {examples}"
        raise InputError(f"corpus={where}: {rule}; leave one out, or pack it with other ids")
    return order
