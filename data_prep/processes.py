"""Work spread over processes that end when the one that started them does, even after kill -9."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TypeVar

from cpc.config import InputError

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
    leash, held = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, _follow, (leash,))
    try:
        yield from pool.map(work, tasks, chunksize=chunksize)
        pool.shutdown()
    except BrokenProcessPool as error:
        remedy = "run the same again; if it happens again, with fewer workers"
        raise InputError(f"workers={workers}: one of them was killed (was memory short?); {remedy}") from error
    finally:
        held.close()
        pool.shutdown(cancel_futures=True)


def _follow(leash: Connection) -> None:
    """End this process, whatever it does, when the other end of the leash is closed: by its holder or by its death."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the holder answers for all

    def watch() -> None:
        try:
            leash.recv_bytes()
        except (EOFError, OSError):
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
