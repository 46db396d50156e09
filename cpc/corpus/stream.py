"""Work on any number of things in threads: only a few are taken ahead of what is asked for."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def stream(work: Callable[[Given], Made], given: Iterable[Given], workers: int | None = None) -> Iterator[Made]:
    """`work` of each thing in their order, from `workers` threads. (Executor.map takes all of them at once.)"""
    workers = workers or os.cpu_count() or 1
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for thing in given:
                waiting.append(pool.submit(work, thing))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
