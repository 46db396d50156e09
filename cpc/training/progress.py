"""What a person watching sees (a progress bar on a terminal, plain lines elsewhere), and how they stop a run."""

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Display:
    """Loss, accuracy at the first and the last k, seconds of audio a second, and the time that is left."""

    def __init__(self, name: str, start: int, steps: int, visible: bool = True) -> None:
        self._console = Console(stderr=True, quiet=not visible)
        self._name, self._first, self._steps = name, start, steps
        self._began = time.perf_counter()
        columns = (
            TextColumn(name),
            BarColumn(None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
        )
        times = (TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
        self._bar = Progress(*columns, *times, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task(name, total=steps, completed=start, state="")
        self._bar.start()

    def step(self, done: int) -> None:
        self._bar.update(self._task, completed=done)

    def metrics(self, values: Mapping[str, float], done: int) -> None:
        """Show the newest training metrics."""
        accuracies = [v for k, v in values.items() if k.startswith("train/accuracy_k/")]
        state = f"loss {values['train/loss']:.3f}"
        if accuracies:
            state += f"  acc k=1 {accuracies[0]:.2f} k={len(accuracies)} {accuracies[-1]:.2f}"
        else:
            state += f"  acc {values['train/accuracy']:.2f}"
        state += f"  {values['speed/real_time_factor']:.0f}× real time"
        self._bar.update(self._task, state=state)
        if not self._console.is_terminal:
            left = (time.perf_counter() - self._began) / max(1, done - self._first) * (self._steps - done)
            self.say(f"{self._name}: step {done}/{self._steps}  {state}  ETA {left / 60:.1f} min")

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        self._bar.stop()


SIGNALS = (signal.SIGINT, signal.SIGTERM)


class SignalHandler:
    """Ctrl-C and SIGTERM ask the loop to stop after its step; a second Ctrl-C stops at once.

    `requested` is the name of the signal that arrived, or None.
    """

    requested: str | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = signal.Signals(number).name


@contextmanager
def stoppable() -> Iterator[SignalHandler]:
    """Within the block, signals set `requested`; outside the main thread nothing is caught."""
    stop = SignalHandler()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
