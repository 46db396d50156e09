"""How far a job over many files has come: a bar with an ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from rich import progress as rich_progress
from rich.console import Console

PLAIN_EVERY = 10.0  # seconds between two plain lines


class Progress:
    """Counts files and samples, from any thread, and shows them on stderr unless `shown` is false.

    `failed` counts files of which nothing came; `unit` is what a file is called.
    """

    def __init__(self, name: str, files: int, sample_rate: int, shown: bool, unit: str = "files") -> None:
        self.name, self.total, self.sample_rate, self.shown, self.unit = name, files, sample_rate, shown, unit
        self.files = self.samples = self.failed = 0
        self.console = Console(stderr=True, soft_wrap=True)
        self.bar = _bar(name, files, self.console, unit) if shown and self.console.is_terminal else None
        self._lock = threading.Lock()
        self._start = self._said = time.monotonic()

    def tick(self, samples: int = 0, failed: bool = False) -> None:
        """One more file is done; `samples` of audio came out of it."""
        self.add(1, samples, int(failed))

    def add(self, files: int, samples: int = 0, failed: int = 0) -> None:
        """The same for several files, `failed` of which gave nothing."""
        with self._lock:
            self.files += files
            self.samples += samples
            self.failed += failed
            if self.bar is not None:
                self.bar.update(self.bar.task_ids[0], completed=self.files, speed=self._speed())
            elif self.shown and time.monotonic() - self._said >= PLAIN_EVERY:
                self._said = time.monotonic()
                self._say()

    def _speed(self) -> str:
        failed = f", {self.failed:,} failed" if self.failed else ""
        if not self.samples:
            return failed
        seconds = self.samples / self.sample_rate
        elapsed = max(time.monotonic() - self._start, 1e-9)
        return f", {seconds / 3600:.1f} h of audio, {seconds / elapsed:,.0f} × real time{failed}"

    def _say(self) -> None:
        left = (time.monotonic() - self._start) * (self.total - self.files) / max(self.files, 1)
        line = f"{self.name}: {self.files} of {self.total} {self.unit}{self._speed()}, {left:.0f} s left"
        self.console.print(line, highlight=False, markup=False)


def _bar(name: str, files: int, console: Console, unit: str) -> rich_progress.Progress:
    bar = rich_progress.Progress(
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn(unit + "{task.fields[speed]}"),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("left"),
        console=console,
    )
    bar.add_task(name, total=files, speed="")
    return bar


@contextmanager
def show_progress(name: str, files: int, sample_rate: int, shown: bool, unit: str = "files") -> Iterator[Progress]:
    """Show progress over `files` files while the block runs."""
    state = Progress(name, files, sample_rate, shown, unit)
    if state.bar is None:
        yield state
        return
    with state.bar:
        yield state


# --- Work on any number of things in threads: only a few are taken ahead of what is asked for.


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
