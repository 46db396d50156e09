"""Pack audio files into a corpus of int16 shards: in parallel, restartable, always the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from threading import Event
from typing import IO, NamedTuple

from cpc.audio import SAMPLE_RATE
from cpc.config import InputError
from cpc.corpus import shards
from cpc.corpus.listing import common_folder, listed
from cpc.corpus.plan import Job, digest, plan, taken, work_folder
from cpc.corpus.progress import show_progress
from cpc.corpus.shards import Part
from cpc.corpus.source import Source
from cpc.files import atomic, locked, write_json, write_text

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
    workers = workers or os.cpu_count() or 1
    job = Job(listing, common, root or common, Path(out), workers, sample_rate, shard_samples, progress, strict)
    identity = digest(job)
    if done := _finished(job, identity):
        return done
    try:
        with claimed(job.out):
            counts = plan(job, identity)
            _write_shards(job, counts)
            report = _finish(job, identity, len(counts))
        shutil.rmtree(job.work)
    except OSError as error:
        remedy = "mend that and run the same again: what is packed stays"
        raise InputError(f"out={out}: cannot be written ({error.strerror}); {remedy}") from error
    return report


def _finished(job: Job, identity: str) -> PackReport | None:
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


def _write_shards(job: Job, counts: Sequence[int]) -> None:
    starts = list(accumulate(counts, initial=0))
    missing = [shard for shard in range(len(counts)) if not _complete(job, shard)]
    files = sum(counts[shard] for shard in missing)
    stop = Event()  # after an error or Ctrl-C the other workers end at their next file
    with show_progress("packing", files, job.sample_rate, job.progress) as state:

        def tick(samples: int) -> None:
            state.tick(samples)
            if stop.is_set():
                raise CancelledError

        def write(shard: int) -> None:
            sources = job.sources[starts[shard] : starts[shard + 1]]
            target = shards.shard_path(job.out, shard)
            part = shards.write_shard(
                sources, target, shard, job.sample_rate, root=job.shown_from, tick=tick, strict=job.strict
            )
            write_json(job.part(shard), part._asdict())

        queue = iter(missing)  # each worker takes the next one

        def work() -> None:
            for shard in queue:
                write(shard)

        with ThreadPoolExecutor(job.workers) as pool:
            futures = [pool.submit(work) for _ in range(job.workers)]
            try:
                for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                    future.result()
            finally:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)


def _complete(job: Job, shard: int) -> bool:
    return job.part(shard).is_file() and shards.shard_path(job.out, shard).is_file()


def _finish(job: Job, identity: str, count: int) -> PackReport:
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

    def __init__(self, job: Job, count: int, file: IO[bytes]) -> None:
        self.job, self.count, self.file = job, count, file
        self.utterances = self.samples = self.skipped = 0
        self.speakers: set[str] = set()
        self.notes: dict[str, str] = {}
        self.file.write(b"path\treason\n")
        self.sha = hashlib.sha256(str(job.sample_rate).encode())

    def parts(self) -> Iterator[Part]:
        for shard in range(self.count):
            part = Part(**json.loads(self.job.part(shard).read_text(encoding="utf-8")))
            self.utterances += len(part.rows)
            self.samples += sum(row[-1] for row in part.rows)
            self.speakers.update(row[1] for row in part.rows if row[1])
            self.skipped += len(part.skipped)
            self.file.writelines(f"{path}\t{reason}\n".encode() for path, reason in part.skipped)
            self.notes.update((path, note) for path, note in part.notes)
            self.sha.update(json.dumps([part.rows, part.sha256]).encode())
            yield part
