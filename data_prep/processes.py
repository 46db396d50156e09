"""Work spread over processes that end when the one that started them does, even after kill -9."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache, partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TypeVar

from cpc.config import InputError
from cpc.data.engine import Block, Done, Work, Worker
from cpc.data.progress import show_progress

Task = TypeVar("Task")
Result = TypeVar("Result")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(
    work: Callable[[Task], Result], tasks: Iterable[Task], workers: int, *, chunksize: int = 1
) -> Iterator[Result]:
    """`work` of each task, in the order of the tasks, by `workers` processes; by this one if `workers` is 1.

    For work that holds Python's lock. The processes are spawned, because forking one with threads is unsafe: `work`
    must be a function of a module, and a script that calls this needs the usual `if __name__ == "__main__":`.

    Raises what `work` raises, and InputError if a process was killed from outside.
    """
    if workers == 1:
        yield from map(work, tasks)
        return
    context = get_context("spawn")
    parent_pipe, held = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, _exit_with_parent, (parent_pipe,))
    try:
        yield from pool.map(work, tasks, chunksize=chunksize)
        pool.shutdown()
    except BrokenProcessPool as error:
        remedy = "run the same again; if it happens again, with fewer workers"
        raise InputError(f"workers={workers}: one of them was killed (was memory short?); {remedy}") from error
    finally:
        held.close()
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Processes:
    """The engine of processes: what `spread` does to tasks, for blocks of work that holds Python's lock."""

    workers: int
    device: None = None

    def run(self, work: Work[Block, Done], progress: bool = True) -> Iterator[Done]:
        """The summaries of all blocks, in order. Raises what a worker raises, and InputError if one was killed."""
        with show_progress(work.name, work.items, work.sample_rate, progress, work.unit) as bar:
            for done, told in spread(partial(_do, work.open), work.blocks, self.workers):
                bar.add(*told)
                yield done


def _do(opened: Callable[[], Worker[Block, Done]], block: Block) -> tuple[Done, tuple[int, int, int]]:
    """A block's summary; its items, samples and failures."""
    counts = [0, 0, 0]

    def tick(samples: int = 0, failed: bool = False) -> None:
        for place, value in enumerate((1, samples, failed)):
            counts[place] += value

    (done,) = _opened(opened)(iter([block]), tick)
    return done, (counts[0], counts[1], counts[2])


@lru_cache(maxsize=1)
def _opened(opened: Callable[[], Worker[Block, Done]]) -> Worker[Block, Done]:
    return opened()


def _exit_with_parent(parent_pipe: Connection) -> None:
    """End this process, whatever it does, when the parent closes its end of the pipe or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the holder answers for all

    def watch() -> None:
        try:
            parent_pipe.recv_bytes()
        except (EOFError, OSError):
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
