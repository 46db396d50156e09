"""Sources sorted by id, on disk: a corpus of any number of files is packed from it in little memory."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, islice
from pathlib import Path
from typing import IO, NamedTuple, overload

import numpy as np
from numpy import ndarray

from cpc.audio.decode import SAMPLE_RATE, AudioInfo, probe
from cpc.audio.integrity import Undecodable
from cpc.audio.location import is_remote, locate, locator
from cpc.config import InputError
from cpc.data import shards
from cpc.data.engine import Engine, Threads, Tick, Work, Worker
from cpc.data.shards import ShardContents, Source, printable
from cpc.data.spool import Database
from cpc.io import atomic, locked, remove_temporary, write_json, write_text

_CHUNK = 256  # sources in memory at once
_SAMPLES_A_BYTE = {".wav": 0.5, ".aiff": 0.5, ".flac": 1}  # about, where it only says how many go into one shard


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
    return source.id, json.dumps([locator(source.path), *texts, source.start, source.stop])


def _source(id: str, text: str) -> Source:
    path, *rest = json.loads(text)
    return Source(id, locate(path), *rest)


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


# --- The plan of a packing job: its identity, and which utterance goes to which shard.


@dataclass(frozen=True)
class PackPlan:
    """What to pack, where and how."""

    sources: Listing
    root: Path  # the deepest folder of all sources: the job's identity says where they lie below it
    shown_from: Path  # the folder from which skipped.tsv names files
    out: Path
    sample_rate: int
    shard_samples: int
    progress: bool
    strict: bool  # whether a file that lacks a little of what its header says is skipped
    engine: Engine

    @property
    def work(self) -> Path:
        """Folder of what is needed until the corpus is complete."""
        return work_folder(self.out)

    def part(self, shard: int) -> Path:
        """The file that marks a shard as complete and holds its rows of the manifest."""
        return part_file(self.work, shard)


def part_file(work: Path, shard: int) -> Path:
    """The file in the folder of unfinished work that marks a shard as complete."""
    return work / f"{shard:05d}.json"


def work_folder(out: Path) -> Path:
    """Where a corpus at `out` keeps what is needed until it is complete."""
    return out / "packing"


def taken(out: Path, what: str) -> InputError:
    """The error for a folder that cannot be packed into, because of what it holds."""
    return InputError(f"out={out}: holds {what}; remove it or name another folder")


def digest(job: PackPlan) -> str:
    """Identity of a job: each source's place below the root, size, metadata, segment. No dates, no absolute paths."""
    settings = [shards.FORMAT, job.sample_rate, job.shard_samples, *(["strict"] if job.strict else [])]
    sha = hashlib.sha256(json.dumps(settings).encode())
    for source in job.sources:
        where = [shards.relative(source.path, job.root), _size(source.path)]
        segment = [source.start, source.stop] if source.is_segment else []
        sha.update(json.dumps([*where, *shards.texts(source), *segment]).encode())
    return sha.hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def plan(job: PackPlan, identity: str) -> list[int]:
    """Utterances of each shard, in order of id: a function of the sources, never of the number of workers.

    It is kept on disk, so that a restart need not read every header again.
    """
    path = job.work / "plan.json"
    if not path.is_file():
        write_json(path, {"digest": identity, "counts": cut(_lengths(job), job.shard_samples)})
    stored = json.loads(path.read_text(encoding="utf-8"))
    if stored["digest"] != identity:
        raise taken(job.out, "the unfinished packing of other files or settings")
    return list(stored["counts"])


def cut(lengths: Iterable[int], most: int) -> list[int]:
    """Cut consecutive lengths into runs that sum to at most `most`, a longer one alone; sizes of the runs."""
    counts: list[int] = []
    filled = 0
    for length in lengths:
        if counts and filled + length <= most:
            counts[-1] += 1
            filled += length
        else:
            counts.append(1)
            filled = length
    return counts


def _lengths(job: PackPlan) -> Iterator[int]:
    """Samples of each source at the corpus's rate, from its header; 0 if the header cannot be read."""
    sources = iter(job.sources)
    chunks = enumerate(iter(lambda: list(islice(sources, _CHUNK)), []))
    found: dict[int, ndarray] = {}  # of each chunk: they come in any order
    work = Work("reading lengths", chunks, partial(_measurer, job.sample_rate), len(job.sources), job.sample_rate)
    for number, lengths in job.engine.run(work, job.progress):
        found[number] = np.array(lengths, np.int64)
    for number in range(len(found)):
        yield from found[number].tolist()


def _measurer(sample_rate: int) -> Worker[tuple[int, list[Source]], tuple[int, list[int]]]:
    """Measures numbered chunks of sources."""

    def measure(chunks: Iterator[tuple[int, list[Source]]], tick: Tick) -> Iterator[tuple[int, list[int]]]:
        for number, chunk in chunks:
            yield number, list(_measure(chunk, sample_rate, tick))

    return measure


def _measure(chunk: Sequence[Source], sample_rate: int, tick: Tick) -> Iterator[int]:
    path, info = None, AudioInfo(0, 1, 1)
    for source in chunk:
        tick()
        if source.path != path:  # segments of a file lie beside each other: its header is read once
            path, info = source.path, _probe(source.path)
        stop = info.samples if source.stop is None else min(source.stop, info.samples or source.stop)
        yield max(stop - source.start, 0) * sample_rate // info.sample_rate


def _probe(path: Path) -> AudioInfo:
    if is_remote(path):  # a transfer for a header costs as much as one for the audio: guessed from the bytes
        return AudioInfo(int(_size(path) * _SAMPLES_A_BYTE.get(path.suffix.lower(), 4)), SAMPLE_RATE, 1)
    try:
        return probe(path)
    except Undecodable:
        return AudioInfo(0, 1, 1)


# --- Pack audio files into a corpus of int16 shards: in parallel, restartable, always the same bytes.


SHARD_SAMPLES = 1 << 25  # 35 minutes at 16 kHz, 64 MiB: the most that a kill costs each worker


class PackReport(NamedTuple):
    """What came of it: utterances packed, files skipped, seconds of audio; not `fresh` if all was there.

    `notes` is the number of files that were packed though the length in their header is wrong.
    """

    packed: int
    skipped: int
    seconds: float
    fresh: bool = True
    notes: int = 0


def pack(
    sources: Iterable[Source],
    out: Path,
    *,
    root: Path | None = None,
    workers: int | None = None,
    sample_rate: int = SAMPLE_RATE,
    shard_samples: int = SHARD_SAMPLES,
    progress: bool = True,
    strict: bool = False,
    engine: Engine | None = None,
) -> PackReport:
    """Decode `sources`, files or segments of files, into a packed corpus at `out`.

    `workers` shards are written at a time (default: one a core). Utterances are sorted by id and cut into shards of
    about `shard_samples` samples at `sample_rate` Hz. Each shard is committed by its part file: a killed run,
    started again, does only the missing shards and ends with the same bytes as an uninterrupted one. Workers are
    threads: decoding, resampling and hashing all run outside Python's lock, and threads neither outlive a killed
    parent nor need a guarded `__main__`.

    Memory does not depend on the number of sources, which are taken one at a time and sorted on disk (see `listed`).
    `skipped.tsv` names files from `root`, by default the deepest folder that holds them all. So does `notes.tsv`, where
    there is something to note: files whose header leaves their length open, which are taken to their end, and those
    that lack at most 50 ms of what it says, which are taken as they are, or with `strict` skipped.

    Raises InputError for no sources, clashing ids, an `out` that holds something else or cannot be written.
    """
    listing = listed(sources)
    if not listing:
        raise InputError("sources=[]: a corpus needs at least one audio file")
    common = common_folder(listing)
    chosen = engine or Threads(workers or os.cpu_count() or 1)
    job = PackPlan(listing, common, root or common, Path(out), sample_rate, shard_samples, progress, strict, chosen)
    identity = digest(job)
    if done := _finished(job, identity):
        return done
    try:
        with claimed(job.out):
            counts = plan(job, identity)
            _write_shards(job, counts)
            if engine is not None:
                remove_temporary(job.out)
            report = _finish(job, identity, len(counts))
        shutil.rmtree(job.work)
    except OSError as error:
        remedy = "fix that and run the same command again: what is packed stays"
        raise InputError(f"out={out}: cannot be written ({error.strerror}); {remedy}") from error
    return report


def _finished(job: PackPlan, identity: str) -> PackReport | None:
    """The report of the corpus already at `out`, None if there is none yet; InputError if `out` is taken."""
    corpus = job.out / "corpus.json"
    if corpus.is_file():
        info = json.loads(corpus.read_text(encoding="utf-8"))
        if info.get("plan") != identity:
            raise taken(job.out, "a packed corpus of other files or settings")
        shutil.rmtree(job.work, ignore_errors=True)  # a kill may have come after the last write
        seconds = info["samples"] / job.sample_rate
        return PackReport(info["utterances"], info["skipped"], seconds, fresh=False, notes=info.get("notes", 0))
    return None


@contextmanager
def claimed(out: Path) -> Iterator[Path]:
    """Hold `out` for this process, and give its folder for unfinished work; the system lets go even after kill −9.

    Raises InputError if `out` holds files of another kind, or if another process is packing into it.
    """
    if out.exists() and not out.is_dir():
        raise taken(out, "a file, not a folder")
    work = work_folder(out)
    if out.is_dir() and any(out.iterdir()) and not work.is_dir():
        raise taken(out, "files that are not a packed corpus")
    work.mkdir(parents=True, exist_ok=True)
    with locked(work / "lock", f"out={out}: another process is packing into it; wait for it to end"):
        yield work


def _write_shards(job: PackPlan, counts: Sequence[int]) -> None:
    starts = list(accumulate(counts, initial=0))
    missing = [shard for shard in range(len(counts)) if not _complete(job, shard)]
    files = sum(counts[shard] for shard in missing)
    # Of the listing, which is on disk, the sources of a few shards at a time are in memory: they may travel.
    blocks = ((shard, list(job.sources[starts[shard] : starts[shard + 1]])) for shard in missing)
    writer = _ShardWriter(job.out, job.work, job.shown_from, job.sample_rate, job.strict)
    work = Work("packing", blocks, writer.open, files, job.sample_rate)
    for _ in job.engine.run(work, job.progress):
        pass


@dataclass(frozen=True)
class _ShardWriter:
    """Decodes the sources of a shard into its file, and commits it by its part file."""

    out: Path
    work: Path
    shown_from: Path
    sample_rate: int
    strict: bool

    def open(self) -> Worker[tuple[int, Sequence[Source]], int]:
        return self._write

    def _write(self, blocks: Iterator[tuple[int, Sequence[Source]]], tick: Tick) -> Iterator[int]:
        for shard, sources in blocks:
            target = shards.shard_path(self.out, shard)
            part = shards.write_shard(
                sources, target, shard, self.sample_rate, root=self.shown_from, tick=tick, strict=self.strict
            )
            write_json(part_file(self.work, shard), part._asdict())
            yield shard


def _complete(job: PackPlan, shard: int) -> bool:
    return job.part(shard).is_file() and shards.shard_path(job.out, shard).is_file()


def _finish(job: PackPlan, identity: str, count: int) -> PackReport:
    """Join the parts: manifest, skipped files, and last of all corpus.json, which makes it a corpus."""
    with atomic(job.out / "skipped.tsv") as file:
        totals = _Totals(job, count, file)
        shards.write_manifest(job.out / "manifest.parquet", totals.parts())
    if totals.notes:
        notes = "".join(f"{path}\t{note}\n" for path, note in totals.notes.items())
        write_text(job.out / "notes.tsv", f"path\tnote\n{notes}")
    info = {
        "format": shards.FORMAT,
        "sample_rate": job.sample_rate,
        "utterances": totals.utterances,
        "samples": totals.samples,
        "speakers": len(totals.speakers),
        "skipped": totals.skipped,
        "shards": count,
        "digest": totals.sha.hexdigest(),
        "plan": identity,
        **({"notes": len(totals.notes)} if totals.notes else {}),
    }
    write_json(job.out / "corpus.json", info)
    return PackReport(totals.utterances, totals.skipped, totals.samples / job.sample_rate, notes=len(totals.notes))


class _Totals:
    """Sums over the parts while they stream past. The digest covers the manifest's rows and the audio.

    What was skipped goes into `file`, which becomes skipped.tsv.
    """

    def __init__(self, job: PackPlan, count: int, file: IO[bytes]) -> None:
        self.job, self.count, self.file = job, count, file
        self.utterances = self.samples = self.skipped = 0
        self.speakers: set[str] = set()
        self.notes: dict[str, str] = {}
        self.file.write(b"path\treason\n")
        self.sha = hashlib.sha256(str(job.sample_rate).encode())

    def parts(self) -> Iterator[ShardContents]:
        for shard in range(self.count):
            part = ShardContents(**json.loads(self.job.part(shard).read_text(encoding="utf-8")))
            self.utterances += len(part.rows)
            self.samples += sum(row[-1] for row in part.rows)
            self.speakers.update(row[1] for row in part.rows if row[1])
            self.skipped += len(part.skipped)
            self.file.writelines(f"{path}\t{reason}\n".encode() for path, reason in part.skipped)
            self.notes.update((path, note) for path, note in part.notes)
            self.sha.update(json.dumps([part.rows, part.sha256]).encode())
            yield part
