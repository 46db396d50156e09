"""The plan of a packing job: its identity, and which utterance goes to which shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from cpc.audio import AudioInfo, Undecodable, probe
from cpc.config import InputError
from cpc.corpus import shards
from cpc.corpus.listing import Listing
from cpc.corpus.progress import Progress, show_progress
from cpc.corpus.source import Source
from cpc.corpus.stream import stream
from cpc.files import write_json

_CHUNK = 256  # sources whose headers are read by one thread


@dataclass(frozen=True)
class Job:
    """What to pack, where and how."""

    sources: Listing
    root: Path  # the deepest folder of all sources: the job's identity says where they lie below it
    shown_from: Path  # the folder from which skipped.tsv names files
    out: Path
    workers: int
    sample_rate: int
    shard_samples: int
    progress: bool
    strict: bool = False  # whether a file that lacks a little of what its header says is skipped

    @property
    def work(self) -> Path:
        """Folder of what is needed until the corpus is complete."""
        return work_folder(self.out)

    def part(self, shard: int) -> Path:
        """The file that marks a shard as complete and holds its rows of the manifest."""
        return self.work / f"{shard:05d}.json"


def work_folder(out: Path) -> Path:
    """Where a corpus at `out` keeps what is needed until it is complete."""
    return out / "packing"


def taken(out: Path, what: str) -> InputError:
    """The error for a folder that cannot be packed into, because of what it holds."""
    return InputError(f"out={out}: holds {what}; remove it or name another folder")


def digest(job: Job) -> str:
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


def plan(job: Job, identity: str) -> list[int]:
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


def _lengths(job: Job) -> Iterator[int]:
    """Samples of each source at the corpus's rate, from its header; 0 if the header cannot be read."""
    sources = iter(job.sources)
    chunks = iter(lambda: list(islice(sources, _CHUNK)), [])
    with show_progress("reading lengths", len(job.sources), job.sample_rate, job.progress) as state:

        def measure(chunk: Sequence[Source]) -> list[int]:
            return list(_measure(chunk, job.sample_rate, state))

        for lengths in stream(measure, chunks, job.workers):
            yield from lengths


def _measure(chunk: Sequence[Source], sample_rate: int, state: Progress) -> Iterator[int]:
    path, info = None, AudioInfo(0, 1, 1)
    for source in chunk:
        state.tick()
        if source.path != path:  # segments of a file lie beside each other: its header is read once
            path, info = source.path, _probe(source.path)
        stop = info.samples if source.stop is None else min(source.stop, info.samples or source.stop)
        yield max(stop - source.start, 0) * sample_rate // info.sample_rate


def _probe(path: Path) -> AudioInfo:
    try:
        return probe(path)
    except Undecodable:
        return AudioInfo(0, 1, 1)
