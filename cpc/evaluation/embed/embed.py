"""The work of `cpc embed`: headers, decoding, computation and writing of different batches at the same time.

Each is a step of one chain of iterators, with a few batches under way between two steps; what is in memory does not
depend on the number of files.
"""

import copy
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from threading import Event
from typing import Literal, NamedTuple, ParamSpec, TypeVar

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from cpc.audio.integrity import Undecodable
from cpc.audio.location import Remote, locate
from cpc.config import InputError
from cpc.data.engine import Engine, Threads, Tick, Work, Worker
from cpc.data.pack import check_shard
from cpc.device import Precision, keep_freed_memory, tf32
from cpc.device import device as find_device
from cpc.device import precision as exact_precision
from cpc.evaluation.embed.inputs import (
    Batch,
    File,
    Reading,
    ahead,
    evaluating,
    flat,
    listed,
    pieces,
    too_short,
)
from cpc.evaluation.embed.writers import Format, Frames, Ledger, Record, check_format, npy_name, open_part, part_name
from cpc.evaluation.features import Layer
from cpc.io import remove_temporary
from cpc.models.checkpoint import load
from cpc.models.cpc import CPC, Latents
from cpc.models.streaming import stream

LayerName = Literal["z", "c"]
Numbered = tuple[int, list[File]]  # a block of files, with its number
P = ParamSpec("P")
T = TypeVar("T")
_SPOOLED = 1 << 13  # frames of a long file that are copied at a time
_AT_ONCE = 8  # batches that a CPU computes at the same time at most: memory grows with them


class _Done(NamedTuple):
    """A batch with its features, on the device (file, frame, dim) and on the CPU, and the samples they took."""

    batch: Batch
    features: Tensor | None
    frames: list[Frames]
    samples: int


@dataclass(frozen=True)
class EmbedJob:
    """Which model makes which features of the `files` files below `root`, and where they go.

    It is sent to the workers of an engine: `open` is called there, and gives what embeds blocks. `device` is where a
    worker of a cluster computes; None where the model is. `workers` is the number of threads that decode.
    """

    model: CPC
    layer: LayerName
    precision: Literal["fp32", "tf32", "bf16"]
    ledger: Ledger
    root: Path
    batch_samples: int
    workers: int
    files: int
    device: Literal["cpu", "cuda"] | None = None

    @property
    def settings(self) -> dict[str, object]:
        """All that determines the features and the files that they are in."""
        kind = {"precision": self.precision, "format": self.ledger.format}
        return {**Layer(self.model, self.layer).settings, **kind}

    @property
    def place(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def open(self) -> Worker[Numbered, int]:
        """Embeds blocks, and yields the number of files of each that got features."""
        if self.device is not None:
            keep_freed_memory(torch.device(self.device))
            self.model.to(self.device)
        return self._embed

    def _embed(self, blocks: Iterator[Numbered], tick: Tick) -> Iterator[int]:
        reading = Reading(self.root, self.model, self.batch_samples, self._frames_written)
        piece = max(1, self.batch_samples // 8 // self.model.hop) * self.model.hop  # a row gains nothing from length
        stop = Event()  # after an error or Ctrl-C a long file ends at its next piece
        with (
            tf32(self.precision != "fp32"),
            ThreadPoolExecutor(self.workers) as pool,
            self._computer(self._at_once()) as computer,
            ThreadPoolExecutor(1) as fetcher,
        ):
            plans = ahead(pool, reading.plan, blocks, 1)
            ready = ahead(pool, reading.read, flat(plans), self.workers + 1)
            computed = ahead(computer, partial(self._compute, pool, piece, stop), ready, self._at_once())
            fetched = ahead(fetcher, self._fetch, computed, 1)
            try:
                for number, results in groupby(fetched, key=lambda done: done.batch.block):
                    yield self._write(number, results, tick)
            finally:
                stop.set()

    def _at_once(self) -> int:
        """Batches to compute at the same time: a batch for each core serves a CPU better than all cores for a batch."""
        return 1 if self.place.type != "cpu" else max(1, min(self.files, torch.get_num_threads(), _AT_ONCE))

    def _computer(self, number: int) -> AbstractContextManager[Executor]:
        return nullcontext(_Here()) if self.place.type == "cpu" and number == 1 else _computers(number)

    def _frames_written(self, file: File) -> int | None:
        return self.ledger.frames_written(file, self.root / file.path)

    @torch.inference_mode()
    def _compute(self, pool: Executor, piece: int, stop: Event, batch: Batch) -> _Done:
        """The features of a batch. On a GPU this only starts the computation."""
        with torch.autocast(self.place.type, torch.bfloat16, enabled=self.precision == "bf16"):
            if batch.long:
                return self._compute_long(pool, piece, stop, batch)
            if batch.waves is None:
                return _Done(batch, None, [], 0)
            waves, lengths = batch.waves.to(self.place, non_blocking=True), None
            if min(batch.lengths) < waves.shape[1]:
                lengths = torch.tensor(batch.lengths).to(self.place, non_blocking=True)
            return _Done(batch, self._of(self.model(waves, lengths)), [], sum(batch.lengths))

    def _compute_long(self, pool: Executor, piece: int, stop: Event, batch: Batch) -> _Done:
        """The features of one long file, piece by piece to a file of their own: it may turn out to be damaged."""
        (file,), samples, streamed = batch.files, 0, stream(self.model)
        spool = self.ledger.spool(file)
        spool.parent.mkdir(parents=True, exist_ok=True)
        waves = pieces(self.root / file.path, self.model.sample_rate, piece)
        try:
            with spool.open("wb") as target:
                for wave in _prefetched(pool, waves):
                    if stop.is_set():
                        raise CancelledError
                    samples += len(wave)
                    target.write(self._array(streamed(torch.from_numpy(wave)[None]))[0].data)
                target.write(self._array(streamed.close())[0].data)
            reason = too_short(self.model, samples)
        except Undecodable as error:
            reason = error.reason
        if reason:
            spool.unlink()
            batch.skipped.append((file, reason))
            return _Done(batch, None, [], 0)
        return _Done(batch, None, [Frames(file, streamed.frames, partial(_spooled, spool, self._dim))], samples)

    def _fetch(self, done: _Done) -> _Done:
        """Wait for the computation; the frames of each file on the CPU."""
        if done.features is None:
            return done
        arrays = done.features.float().cpu().numpy()
        counts = [self.model.frames(length) for length in done.batch.lengths]
        own = zip(done.batch.files, counts, arrays, strict=True)
        return done._replace(
            features=None, frames=[Frames(file, n, partial(_whole, rows[:n])) for file, n, rows in own]
        )

    def _write(self, number: int, results: Iterable[_Done], tick: Tick) -> int:
        """Write a block's features, then its record; gives the number of files that have been embedded."""
        record, new = Record([], [], []), 0
        with open_part(self.ledger.format, self.ledger.out, number, self._dim) as add:
            for done in results:
                starts = add(done.frames)
                for (file, count, _), start in zip(done.frames, starts, strict=True):
                    record.rows.append([file.id, file.shown, count, start])
                record.rows.extend([file.id, file.shown, count, 0] for file, count in done.batch.present)
                record.skipped.extend([file.shown, reason] for file, reason in done.batch.skipped)
                record.notes.extend([file.shown, note] for file, note in done.batch.notes)
                if done.batch.long:
                    self.ledger.spool(done.batch.files[0]).unlink(missing_ok=True)
                new += len(done.frames)
                for place in range(len(done.frames) + len(done.batch.present)):
                    tick(0 if place else done.samples)
                for _ in done.batch.skipped:
                    tick(failed=True)
        self.ledger.record(number, Record(*map(sorted, record)))
        return new

    @property
    def _dim(self) -> int:
        return self.model.dim if self.layer == "z" else self.model.hidden

    def _of(self, latents: Latents) -> Tensor:
        return latents.z if self.layer == "z" else latents.c

    def _array(self, latents: Latents) -> Float32[np.ndarray, "batch frame dim"]:
        return np.ascontiguousarray(self._of(latents).float().cpu().numpy())


class _Here(Executor):
    """Works at once, in the thread that asks; Ctrl-C is raised there and then.

    A second thread would bring a second team of OpenMP's, and where there are more of its threads than cores they
    sleep after every small operation: a long file took 1.7 times as long when the first thread had computed before.
    """

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        done: Future[T] = Future()
        try:
            done.set_result(work(*args, **kwargs))
        except Exception as error:  # handed to whoever asks for the result
            done.set_exception(error)
        return done


@contextmanager
def _computers(number: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that share those of torch between them."""
    threads = torch.get_num_threads()
    try:
        own = max(1, threads // number)
        with ThreadPoolExecutor(number, initializer=torch.set_num_threads, initargs=(own,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)  # which new threads take over


def _prefetched(
    pool: Executor, waves: Iterator[Float32[np.ndarray, " sample"]]
) -> Iterator[Float32[np.ndarray, " sample"]]:
    """Pieces of a file, the next one on its way while one is being used."""
    coming = pool.submit(next, waves, None)
    while (wave := coming.result()) is not None:
        coming = pool.submit(next, waves, None)
        yield wave


def _whole(frames: Float32[np.ndarray, "frame dim"]) -> list[Float32[np.ndarray, "frame dim"]]:
    return [frames]


def _spooled(path: Path, dim: int) -> Iterator[Float32[np.ndarray, "frame dim"]]:
    with path.open("rb") as file:
        while len(rows := np.fromfile(file, np.float32, _SPOOLED * dim)):
            yield rows.reshape(-1, dim)


# --- Features of audio files on disk: `cpc embed`.


# Samples of a batch; longer files go through in pieces. 33 s at 16 kHz keep a 512-channel encoder within about 1 GiB,
# each of the batches that a CPU computes at once.
BATCH_SAMPLES = {"cpu": 1 << 19, "cuda": 1 << 22}


class Embedded(NamedTuple):
    """What OUT holds after a call: files with features, `new` of them by this call, and files skipped.

    `notes` is the number of files that were read though the length in their header is wrong.
    """

    ledger: Ledger
    source: Path
    files: int
    new: int
    skips: int
    notes: int = 0

    @property
    def written(self) -> list[Path]:
        """The .npy of each file, or the parts or shards of them all."""
        format, out = self.ledger.format, self.ledger.out
        if format == "npy":
            return [out / npy_name(row[0]) for _, record in self.ledger.records() for row in record.rows]
        return [out / part_name(format, number) for number, _ in self.ledger.records()]

    @property
    def skipped(self) -> list[tuple[Path, str]]:
        """Files without features, and why."""
        return [(self.source / path, why) for _, record in self.ledger.records() for path, why in record.skipped]


def embed(
    model: CPC | str | Path,
    source: str | Path,
    out: str | Path,
    layer: LayerName = "c",
    *,
    format: Format = "npy",
    precision: Precision = "fp32",
    shard: tuple[int, int] = (1, 1),
    workers: int | None = None,
    batch_samples: int | None = None,
    progress: bool = False,
    engine: Engine | None = None,
) -> Embedded:
    """Write the features of every audio file of `source` to the folder `out`, which may be a URL.

    Files of similar length share batches; padding adds less than an eighth to a file of at least 1024 samples. Files
    longer than a batch go through in pieces, in constant memory. Memory does not depend on the number of files either;
    a CPU computes as many batches at once as torch has threads, 8 at most. A call that was killed resumes when it is
    made again, and ends with the same bytes: blocks of at most 512 files and 64 MiB of audio are complete or done
    again. A file that cannot be decoded or is too short for one frame is listed with the reason in OUT/skipped.tsv,
    and one that is read though the length in its header is wrong in OUT/notes.tsv.

    Args:
        model: a model, a run folder or a checkpoint.
        source: a file, or a folder with its subfolders.
        out: the folder of the features, or a URL such as s3://bucket/features.
        layer: z, c, a layer below c such as c1, or layers side by side as z+c.
        format: npy (OUT/…/STEM.npy for each file, float32 frames × dim), parquet (a data set in OUT/features: id, path,
            start, frames, dim, features as frames × dim in a row), numpy-shards (OUT/features/*.npy, with
            OUT/index.parquet: id, path, shard, offset, frames), kaldi (archives, with OUT/feats.scp, to be read from
            OUT), hdf5 (a data set a file; needs h5py) or webdataset (tars of .npy).
        precision: fp32, bf16 or auto.
        shard: (i, n) for every n-th block, from the i-th on; all shards, into one folder, give the bytes of one call.
        workers: threads that decode; all cores by default.
        batch_samples: samples of a batch, padding included, at most.
        progress: shows a bar, or a line now and then.
        engine: a cluster (`cpc.scale.ray`), whose workers do the blocks, each with the model and `workers` threads that
            decode; `source` and `out` must be seen by all of them.

    Returns:
        what `out` holds: how many files have features, how many of them are new, how many were skipped.

    Raises:
        InputError: `source` has no audio or two files of one name, or `out` holds features of another kind.
    """
    engine = engine or Threads()
    chosen = load(model, find_device()) if isinstance(model, str | Path) else model
    _check(format, layer, shard)
    kind = torch.device(engine.device or next(chosen.parameters()).device)
    if engine.device is not None:
        chosen = copy.deepcopy(chosen).cpu()  # as it travels
        if precision == "auto":
            raise InputError("precision=auto: workers of a cluster may differ in what they have; give fp32 or bf16")
    listing = listed(locate(source))
    with ExitStack() as stack:
        ledger = Ledger(locate(out), format)
        exact = exact_precision(precision, kind)
        stack.enter_context(ledger.lock(f"{shard[0]}-of-{shard[1]}"))
        most, threads = batch_samples or BATCH_SAMPLES.get(kind.type, 1 << 20), workers or os.cpu_count() or 1

        def missing() -> Iterator[Numbered]:
            return (block for block in listing.blocks(*shard) if not ledger.is_complete(*block))

        with ledger.lock("tables", wait=True):
            settings = EmbedJob(chosen, layer, exact, ledger, listing.root, most, threads, 0).settings
            ledger.claim(settings, listing.digest)
        files = sum(len(block) for _, block in missing())
        job = EmbedJob(chosen, layer, exact, ledger, listing.root, most, threads, files, engine.device)
        stack.enter_context(evaluating(chosen))
        work = Work("embed", missing(), job.open, files, chosen.sample_rate)
        new = sum(engine.run(work, progress))
        if engine.device is not None and not isinstance(ledger.out, Remote):
            remove_temporary(ledger.out)
        ledger.finish()
        counts = [[len(column) for column in record] for _, record in ledger.records()]
        files, skips, notes = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0, 0)
        return Embedded(ledger, listing.root, files, new, skips, notes)


def _check(format: str, layer: str, shard: tuple[int, int]) -> None:
    check_format(format)
    if layer not in ("z", "c"):
        raise InputError(f"layer={layer}: must be z or c")
    check_shard(*shard)
