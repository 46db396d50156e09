"""Work on any number of blocks, described once, and the engines that do it on this machine.

A `Work` says which blocks there are, what is done with one, and what is told of it; the results go where the work puts
them. An `Engine` decides where it is done: threads of this process, processes (`data_prep.processes`), or a cluster
(`cpc.scale.ray`). What comes out is the same, because blocks do not know of each other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, CancelledError, ThreadPoolExecutor, wait
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, Literal, Protocol, TypeVar, runtime_checkable

from cpc.config import InputError
from cpc.data.progress import show_progress

Block = TypeVar("Block")
Done = TypeVar("Done")
ENGINES = ("local", "ray")


@runtime_checkable
class Tick(Protocol):
    """Tells that one more item is done: the samples of audio that came out of it, and whether it failed."""

    def __call__(self, samples: int = 0, failed: bool = False) -> None: ...


# Takes blocks as it needs them, writes what comes of each, and yields a small summary of each, in their order.
Worker = Callable[[Iterator[Block], Tick], Iterator[Done]]


@dataclass(frozen=True)
class Work(Generic[Block, Done]):
    """What is to be done, whoever does it.

    name: what the progress bar calls it. blocks: taken a few at a time, so any number; a block and what is yielded for
    it travel between machines, so they are small. open: makes the worker, once in each process, and travels there by
    pickle. items, sample_rate: how many items all blocks hold, and the rate of the samples that are told. unit: what
    an item is called. ahead: blocks that a worker is given before it has done the one before: what a kill costs.
    """

    name: str
    blocks: Iterable[Block]
    open: Callable[[], Worker[Block, Done]]
    items: int
    sample_rate: int
    unit: str = "files"
    ahead: int = 1


@runtime_checkable
class Engine(Protocol):
    """Does the blocks of some work, each once. `device` is where models compute; None where they are already."""

    @property
    def device(self) -> Literal["cpu", "cuda"] | None:
        """Where models compute."""

    def run(self, work: Work[Block, Done], progress: bool = True) -> Iterator[Done]:
        """The summaries of all blocks, in any order.

        Raises:
            InputError: a worker raised it, or workers keep dying.
        """


@dataclass(frozen=True)
class Threads:
    """Threads of this process, for work that leaves Python's lock alone; with one, the thread that asks."""

    workers: int = 1
    device: None = None

    def run(self, work: Work[Block, Done], progress: bool = True) -> Iterator[Done]:
        """The summaries of all blocks: in order with one thread. After an error or Ctrl-C threads end at their next
        item."""
        with show_progress(work.name, work.items, work.sample_rate, progress, work.unit) as bar:
            if self.workers == 1:
                yield from work.open()(iter(work.blocks), bar.tick)
                return
            stop = threading.Event()

            def tick(samples: int = 0, failed: bool = False) -> None:
                bar.tick(samples, failed)
                if stop.is_set():
                    raise CancelledError

            blocks, results = _Shared(iter(work.blocks)), SimpleQueue[Done]()

            def feed() -> None:
                for done in work.open()(blocks, tick):
                    results.put(done)

            with ThreadPoolExecutor(self.workers) as pool:
                futures = {pool.submit(feed) for _ in range(self.workers)}
                try:
                    while futures:
                        ended, futures = wait(futures, timeout=0.2, return_when=FIRST_EXCEPTION)
                        while not results.empty():
                            yield results.get()
                        for future in ended:
                            future.result()
                finally:
                    stop.set()
                    pool.shutdown(wait=False, cancel_futures=True)


class _Shared(Iterator[Block]):
    """An iterator for several threads."""

    def __init__(self, blocks: Iterator[Block]) -> None:
        self._blocks, self._lock = blocks, threading.Lock()

    def __next__(self) -> Block:
        with self._lock:
            return next(self._blocks)


def check_engine(name: str, given: dict[str, object]) -> None:
    """Raises InputError for an engine that there is not, and for options that only a cluster has."""
    if name not in ENGINES:
        raise InputError(f"engine={name}: must be one of {', '.join(ENGINES)}")
    for option, value in given.items():
        if name == "local" and value is not None:
            raise InputError(f"{option}={value}: belongs to --engine ray; add that, or drop --{option}")
