"""The progress of downloading and unpacking: bars on a terminal, else one plain line every ten seconds, on stderr."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich import progress as rich_progress
from rich.console import Console
from rich.filesize import decimal

from cpc.corpus.progress import PLAIN_EVERY


class Transfer:
    """Counts the bytes of several files, from any thread; `sizes` are their full sizes by name."""

    def __init__(self, name: str, sizes: Mapping[str, int], shown: bool) -> None:
        self.name, self.total, self.shown = name, sum(sizes.values()), shown
        self.held = self.received = 0  # bytes done; those of them that were done since the start
        self.console = Console(stderr=True, soft_wrap=True)
        self.bar = _bar(self.console) if shown and self.console.is_terminal else None
        self._tasks = {name: self.bar.add_task(name, total=size) for name, size in sizes.items()} if self.bar else {}
        self._lock = threading.Lock()
        self._start = self._said = time.monotonic()

    def found(self, name: str, amount: int) -> None:
        """`amount` bytes of the file were on disk already; negative if what was there is thrown away."""
        with self._lock:
            self._hold(name, amount)

    def add(self, name: str, amount: int) -> None:
        """`amount` more bytes were done."""
        with self._lock:
            self.received += amount
            self._hold(name, amount)
            if self.bar is None and self.shown and time.monotonic() - self._said >= PLAIN_EVERY:
                self._said = time.monotonic()
                self.console.print(self.line(time.monotonic() - self._start), highlight=False, markup=False)

    def _hold(self, name: str, amount: int) -> None:
        self.held += amount
        if self.bar is not None:
            self.bar.update(self._tasks[name], advance=amount)

    def line(self, seconds: float) -> str:
        """How far it is after `seconds`: amounts, speed, and the time that the rest takes at this speed."""
        speed = self.received / max(seconds, 1e-9)
        left = f", {(self.total - self.held) / speed:.0f} s left" if speed else ""
        return f"{self.name}: {decimal(self.held)} of {decimal(self.total)}, {decimal(round(speed))}/s{left}"


def _bar(console: Console) -> rich_progress.Progress:
    return rich_progress.Progress(
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.DownloadColumn(),
        rich_progress.TransferSpeedColumn(),
        rich_progress.TimeRemainingColumn(),
        rich_progress.TextColumn("left"),
        console=console,
    )


@contextmanager
def show_transfer(name: str, sizes: Mapping[str, int], shown: bool) -> Iterator[Transfer]:
    """Show the progress of files of these sizes (bytes, by name) while the block runs."""
    state = Transfer(name, sizes, shown)
    if state.bar is None:
        yield state
        return
    with state.bar:
        yield state
