"""The work of `cpc embed`: headers, decoding, computation and writing of different batches at the same time.

Each is a step of one chain of iterators, with a few batches under way between two steps; what is in memory does not
depend on the number of files.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
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

from cpc.audio import Undecodable
from cpc.corpus.progress import Progress, show_progress
from cpc.device import tf32
from cpc.evaluation.embedding.formats import Frames, open_part
from cpc.evaluation.embedding.ledger import Ledger, Record
from cpc.evaluation.embedding.listing import File, Listing
from cpc.evaluation.embedding.reading import Batch, Reading, ahead, flat, pieces, too_short
from cpc.evaluation.layers import Layer
from cpc.model import CPC, Latents
from cpc.streaming import stream

LayerName = Literal["z", "c"]
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
class Job:
    """Which files go through which model into which folder; `shard` (i, n) is every n-th block from the i-th on."""

    model: CPC
    layer: LayerName
    precision: Literal["fp32", "tf32", "bf16"]
    ledger: Ledger
    listing: Listing
    shard: tuple[int, int]
    workers: int

    @property
    def settings(self) -> dict[str, object]:
        """All that determines the features and the files that they are in."""
        kind = {"precision": self.precision, "format": self.ledger.format}
        return {**Layer(self.model, self.layer).settings, **kind}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def run(self, batch_samples: int, progress: bool) -> int:
        """Embed what is missing; gives the number of files that were."""
        files = sum(len(block) for _, block in self._missing())
        reading = Reading(self.listing.root, self.model, batch_samples, self._frames_written)
        piece = max(1, batch_samples // 8 // self.model.hop) * self.model.hop  # a row gains nothing from length
        stop = Event()  # after an error or Ctrl-C a long file ends at its next piece
        with (
            tf32(self.precision != "fp32"),
            ThreadPoolExecutor(self.workers) as pool,
            self._computer(self._at_once(files)) as computer,
            ThreadPoolExecutor(1) as fetcher,
            show_progress("embed", files, self.model.sample_rate, progress) as bar,
        ):
            plans = ahead(pool, reading.plan, self._missing(), 1)
            ready = ahead(pool, reading.read, flat(plans), self.workers + 1)
            computed = ahead(computer, partial(self._compute, pool, piece, stop), ready, self._at_once(files))
            fetched = ahead(fetcher, self._fetch, computed, 1)
            try:
                blocks = groupby(fetched, key=lambda done: done.batch.block)
                return sum(self._write(number, results, bar) for number, results in blocks)
            finally:
                stop.set()

    def _at_once(self, files: int) -> int:
        """Batches to compute at the same time: a batch for each core serves a CPU better than all cores for a batch."""
        return 1 if self.device.type != "cpu" else max(1, min(files, torch.get_num_threads(), _AT_ONCE))

    def _computer(self, number: int) -> AbstractContextManager[Executor]:
        return nullcontext(_Here()) if self.device.type == "cpu" and number == 1 else _computers(number)

    def _missing(self) -> Iterator[tuple[int, list[File]]]:
        for number, files in self.listing.blocks(*self.shard):
            if not self.ledger.is_complete(number, files):
                yield number, files

    def _frames_written(self, file: File) -> int | None:
        return self.ledger.frames_written(file, self.listing.root / file.path)

    @torch.inference_mode()
    def _compute(self, pool: Executor, piece: int, stop: Event, batch: Batch) -> _Done:
        """The features of a batch. On a GPU this only starts the computation."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            if batch.long:
                return self._compute_long(pool, piece, stop, batch)
            if batch.waves is None:
                return _Done(batch, None, [], 0)
            waves, lengths = batch.waves.to(self.device, non_blocking=True), None
            if min(batch.lengths) < waves.shape[1]:
                lengths = torch.tensor(batch.lengths).to(self.device, non_blocking=True)
            return _Done(batch, self._of(self.model(waves, lengths)), [], sum(batch.lengths))

    def _compute_long(self, pool: Executor, piece: int, stop: Event, batch: Batch) -> _Done:
        """The features of one long file, piece by piece to a file of their own: it may turn out to be damaged."""
        (file,), samples, streamed = batch.files, 0, stream(self.model)
        spool = self.ledger.spool(file)
        spool.parent.mkdir(parents=True, exist_ok=True)
        waves = pieces(self.listing.root / file.path, self.model.sample_rate, piece)
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

    def _write(self, number: int, results: Iterable[_Done], bar: Progress) -> int:
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
                files = len(done.frames) + len(done.batch.skipped) + len(done.batch.present)
                for place in range(files):
                    bar.tick(0 if place else done.samples)
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
