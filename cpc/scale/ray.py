"""The engine for a cluster: blocks of work go to actors of Ray, on one machine or many.

Ray Core, not Ray Data: our blocks are cut and numbered before (the results are the same bytes for any number of
workers), their results are files that the workers write, and what is done is known from those files, after a kill too.
Ray Data would cut, shuffle and hold the rows itself, and starts from the beginning when its driver dies. For the same
reason trials of a sweep are blocks, and no trials of Ray Tune. Training is Ray Train's TorchTrainer (`train`).

A worker is an actor. It makes what it needs once (a model, an aligner), has at most `Work.ahead` blocks waiting, and is
given the next one when it has told of the first: so the driver and the workers hold a bounded number of blocks,
whatever the number of items. An actor that dies with its process or node is replaced where there is room, and its
blocks are given to others.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Generic, Literal, NamedTuple

from cpc.config import InputError
from cpc.data.engine import Block, Done, Engine, Work, check_engine
from cpc.data.progress import Progress, show_progress
from cpc.io import WRITER

INSTALL = "install it with: pip install 'ray[train]'"
START_SECONDS = 120.0  # that the first worker may take to start, and that a cluster may be without any
CONNECT_SECONDS = 5.0
CALLS = 8  # at a time to one worker: the blocks that it has been given, and its beginning
TRIES = 3  # of a block whose workers die
OBJECT_STORE = 1 << 29  # bytes, on one machine: blocks and summaries are small, and a model is there once
PASSED = ("MLFLOW_TRACKING_URI", "CPC_CACHE", "CPC_CACHE_SIZE", "TMPDIR")  # settings that a worker takes over


@contextmanager
def engine_named(
    name: str,
    address: str | None = None,
    workers: int | None = None,
    cpus: float | None = None,
    gpus: float | None = None,
) -> Iterator[Engine | None]:
    """The engine that a command was told to use, while it runs: None for local processes.

    Args:
        name: local or ray.
        address: HOST:PORT of a cluster's head, or auto; None for RAY_ADDRESS, else a cluster of this machine alone.
        workers: of the cluster, how many; None for as many as it has room for.
        cpus, gpus: of each worker; None for 1 and 0.

    Raises:
        InputError: no such engine, Ray is not installed, nobody answers, or there are too few GPUs.
    """
    check_engine(name, {"address": address, "workers": workers, "cpus": cpus, "gpus": gpus})
    if name == "local":
        yield None
        return
    cpus, gpus = 1.0 if cpus is None else cpus, gpus or 0.0
    if cpus <= 0 or gpus < 0:
        raise InputError(f"cpus={cpus:g}, gpus={gpus:g}: cpus must be above 0, gpus at least 0")
    with connected(address, at_least=(workers or 1) * cpus):
        engine = RayEngine(fit_in(workers, cpus, gpus), cpus, gpus)
        try:
            yield engine
        finally:
            engine.close()


@contextmanager
def connected(address: str | None = None, at_least: float = 1, shown: bool = False) -> Iterator[None]:
    """Within, this process is connected to a cluster; to the one that it was connected to before, if there is one.

    A cluster of this machine alone is started for the time, with a core for each of `at_least` workers' even where
    there are fewer: they then share them, as threads would. With `shown`, what workers print is printed here.

    Raises:
        InputError: Ray is not installed, nobody answers at the address, or Ray or Python differ there.
    """
    address = address or os.environ.get("RAY_ADDRESS") or None
    settings = {"RAY_USAGE_STATS_ENABLED": "0"}  # nothing is reported to anybody
    if address is not None and _has_token():
        settings["RAY_AUTH_MODE"] = "token"
    with _environment(settings):  # before Ray is loaded, which reads it then
        yield from _connected(address, at_least, shown)


def _has_token() -> bool:
    """Whether `ray start` on this machine would guard its cluster with a token (Ray 2.60): so does who connects."""
    names = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    return any(os.environ.get(name) for name in names) or (Path.home() / ".ray" / "auth_token").is_file()


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Within, the environment has these settings where it has none of its own."""
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _connected(address: str | None, at_least: float, shown: bool) -> Iterator[None]:
    ray = load_ray()
    if ray.is_initialized():
        yield
        return
    if address is not None:
        _check_address(address)
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": shown, "include_dashboard": False}
    try:
        if address is None:
            cores = max(float(os.cpu_count() or 1), at_least)
            ray.init("local", num_cpus=cores if cores % 1 else int(cores), object_store_memory=OBJECT_STORE, **quiet)
        else:
            quiet.pop("include_dashboard")
            ray.init(address=address, **quiet)
        yield
    except (ConnectionError, RuntimeError, ValueError, SystemExit) as error:
        if ray.is_initialized():
            raise
        raise InputError(_refusal(address, error)) from None
    finally:
        ray.shutdown()


def load_ray() -> Any:
    """The module. Raises InputError where it is not installed."""
    try:
        import ray
    except ImportError:
        raise InputError(f"engine=ray: Ray is not installed; {INSTALL}, or drop --engine") from None
    return ray


def _check_address(address: str) -> None:
    """Raises InputError for an address at which nothing listens: Ray itself would try for two minutes."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"address={address}: must be HOST:PORT of a cluster's head, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"address={address}: nobody answers there ({reason}); {_START}") from None


_START = "start a cluster with `ray start --head` and give the HOST:PORT that it prints"


def _refusal(address: str | None, error: BaseException) -> str:
    said = " ".join(str(error).split())
    if "ersion mismatch" in said:
        return f"address={address}: {said[:300]}; install the same versions of Python and Ray here and there"
    if isinstance(error, SystemExit):
        said = "what listens there is no Ray"
    elif address is not None and "Failed to connect" in said:
        rule = "what listens there lets nobody in"
        remedy = "if it wants a token (Ray 2.60), set RAY_AUTH_MODE=token here too, with the head's ~/.ray/auth_token"
        return f"address={address}: {rule} ({said[:300]}); {remedy}"
    return f"address={address or 'none'}: no cluster can be used ({said[:300]}); {_START}"


def fit_in(workers: int | None, cpus: float, gpus: float) -> int:
    """How many workers of so many cores and GPUs the cluster takes, or `workers` if it takes so many.

    Raises:
        InputError: it does not.
    """
    total = load_ray().cluster_resources()
    have = {"cpus": total.get("CPU", 0.0), "gpus": total.get("GPU", 0.0)}
    rooms = [int(have[name] / need + 1e-9) for name, need in (("cpus", cpus), ("gpus", gpus)) if need]
    for (name, need), room in zip([(n, x) for n, x in (("cpus", cpus), ("gpus", gpus)) if x], rooms, strict=True):
        if room < (workers or 1):
            asked = f"{workers or 1} worker{'s' * ((workers or 1) > 1)} with {need:g} each"
            remedy = "give fewer workers, or less to each" if room else "give less, or add machines"
            raise InputError(f"{name}={need:g}: {asked} where the cluster has {have[name]:g} in all; {remedy}")
    return workers or min(rooms)


def machines() -> int:
    """How many machines the cluster has."""
    return len({node["NodeManagerHostname"] for node in load_ray().nodes() if node["Alive"]})


@dataclass(frozen=True)
class RayEngine:
    """So many actors, each with cores and GPUs of its own, of the cluster that this process is connected to.

    Those that have come to the end of some work wait for the next: starting one takes seconds.
    """

    workers: int
    cpus: float = 1
    gpus: float = 0
    idle: list[Any] = field(default_factory=list, repr=False, compare=False)

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where models compute: on GPUs if workers have some."""
        return "cuda" if self.gpus else "cpu"

    def run(self, work: Work[Block, Done], progress: bool = True) -> Iterator[Done]:
        """The summaries of all blocks, as they come.

        Raises:
            InputError: a worker raised it; a block's workers died `TRIES` times; none starts; other versions there.
        """
        with show_progress(work.name, work.items, work.sample_rate, progress, work.unit) as bar:
            pool = _WorkerPool(self, work, bar)
            try:
                yield from pool.results()
            except BaseException:
                pool.end(finished=False)
                raise
            pool.end(finished=True)

    def close(self) -> None:
        """End the actors that wait."""
        while self.idle:
            _kill(self.idle.pop())


def _kill(actor: Any) -> None:
    with suppress(Exception):
        load_ray().kill(actor)


class _BlockResult(NamedTuple):
    """What a worker tells of a block: its summary, and the items, samples and failures since the block before."""

    done: Any
    items: int
    samples: int
    failed: int


@dataclass
class _RayWorker(Generic[Block]):
    """An actor, as its driver sees it. `begun` is its answer to the call that opens it; None once that has come."""

    actor: Any
    begun: Any
    busy: int = 0


@dataclass
class _Assignment(Generic[Block]):
    """A block on its way, and how often a worker has died with it."""

    block: Block
    worker: _RayWorker[Block] | None = None
    deaths: int = 0


class _WorkerPool(Generic[Block, Done]):
    """The actors of one piece of work, and the blocks that are with them."""

    def __init__(self, engine: RayEngine, work: Work[Block, Done], bar: Progress) -> None:
        self.ray, self.engine, self.work, self.bar = load_ray(), engine, work, bar
        self.blocks = iter(work.blocks)
        first = islice(self.blocks, engine.workers)  # no more workers than blocks
        self.again: deque[_Assignment[Block]] = deque(_Assignment(block) for block in first)
        self.sent: dict[Any, _Assignment[Block]] = {}  # by the reference to what will be told of it
        self.opened = self.ray.put(work.open)
        self.actor_class = self.ray.remote(_Actor).options(
            num_cpus=engine.cpus, num_gpus=engine.gpus, max_concurrency=CALLS, max_restarts=0
        )
        self.workers = [self._start_worker() for _ in self.again]
        self.left = bool(self.workers)  # whether there may be blocks that nobody has been given
        self.alive = time.monotonic()  # when a worker was last seen to be there

    def results(self) -> Iterator[Done]:
        while True:
            self._assign_blocks()
            waiting = [*self.sent, *(m.begun for m in self.workers if m.begun is not None and (self.sent or self.left))]
            if not self.sent and not self.left:
                return
            ready, _ = self.ray.wait(waiting, num_returns=1, timeout=1.0)
            for reference in ready:
                sent = self.sent.pop(reference, None)
                if sent is None:
                    self._begin(next(m for m in self.workers if m.begun == reference))
                elif (result := self._get(reference, sent)) is not None:
                    self.bar.add(result.items, result.samples, result.failed)
                    yield result.done
            self._check_alive()

    def end(self, finished: bool) -> None:
        for worker in self.workers:
            if finished and worker.begun is None and not worker.busy:
                self.engine.idle.append(worker.actor)
            else:
                _kill(worker.actor)

    def _assign_blocks(self) -> None:
        """Give blocks to those who have room, the least busy first."""
        room = [m for m in self.workers if m.begun is None and m.busy <= self.work.ahead]
        while room:
            sent = self.again.popleft() if self.again else None
            if sent is None:
                block = next(self.blocks, None)
                if block is None:
                    self.left = False
                    return
                sent = _Assignment(block)
            worker = sent.worker = min(room, key=lambda m: m.busy)
            worker.busy += 1
            self.sent[worker.actor.do.remote(sent.block)] = sent
            room = [m for m in room if m.busy <= self.work.ahead]

    def _get(self, reference: Any, sent: _Assignment[Block]) -> _BlockResult | None:
        """What is told of a block; None if its worker died, and it has to be given to another."""
        worker = sent.worker
        try:
            result: _BlockResult = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            raise _cause(error) from None
        except self.ray.exceptions.RayError as error:
            sent.deaths += 1
            if sent.deaths == TRIES:
                rule = f"the worker that did a block of it died {TRIES} times ({_line(error)})"
                remedy = "give each more memory, or leave out the files that it holds"
                raise InputError(f"{self.work.name}: {rule}; {remedy}: {_shortened(sent.block)}") from None
            sent.worker = None
            self.again.append(sent)
            self.left = True
            if worker in self.workers:
                self._replace(worker)
            return None
        if worker is not None:
            worker.busy -= 1
        return result

    def _start_worker(self) -> _RayWorker[Block]:
        if self.engine.idle:
            actor = self.engine.idle.pop()
        else:
            environment = {name: os.environ[name] for name in PASSED if name in os.environ}
            actor = self.actor_class.remote(str(Path.cwd()), environment)
        return _RayWorker(actor, actor.begin.remote([self.opened]))

    def _replace(self, worker: _RayWorker[Block]) -> None:
        _kill(worker.actor)
        self.workers[self.workers.index(worker)] = self._start_worker()

    def _begin(self, worker: _RayWorker[Block]) -> None:
        """A worker says what it is; one that died before is replaced."""
        try:
            there: dict[str, str] = self.ray.get(worker.begun)
        except self.ray.exceptions.RayError as error:
            if missing := re.search(r"No module named '?([\w.]+)|failed to import", str(error)):
                remedy = f"install cpc-audio {_versions()['cpc']} on every machine of the cluster"
                raise InputError(f"engine=ray: a worker cannot load what it needs ({missing[0]}); {remedy}") from None
            if isinstance(error, self.ray.exceptions.RayTaskError):
                raise _cause(error) from None
            self._replace(worker)
            time.sleep(0.2)
            return
        here = _versions()
        if differ := [f"{name} {there[name]} (here {here[name]})" for name in here if there.get(name) != here[name]]:
            remedy = "install the same versions on every machine of the cluster"
            raise InputError(f"engine=ray: worker on {there['host']} has {', '.join(differ)}; {remedy}")
        worker.begun = None
        self.alive = time.monotonic()

    def _check_alive(self) -> None:
        if any(worker.begun is None for worker in self.workers):
            self.alive = time.monotonic()
        elif time.monotonic() - self.alive > START_SECONDS:
            needs = f"{self.engine.cpus:g} cores" + f" and {self.engine.gpus:g} GPUs" * bool(self.engine.gpus)
            remedy = "see `ray status`; what is done stays, and the same command resumes"
            raise InputError(f"engine=ray: no worker with {needs} started in {START_SECONDS:.0f} s; {remedy}")


class _Actor:
    """A worker: one thread does the blocks as a stream, so that reading, computing and writing of several overlap."""

    def __init__(self, folder: str, environment: dict[str, str]) -> None:
        with suppress(OSError):  # relative paths mean what they mean to the driver, where it has that folder
            os.chdir(folder)
        os.environ.update(environment)
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as `cpc` itself does
        os.environ.setdefault("MPLBACKEND", "agg")
        os.environ[WRITER] = f"worker-{socket.gethostname()}-{os.getpid()}"
        self._queue: SimpleQueue[tuple[Any, Future[_BlockResult]]] = SimpleQueue()
        self._waiting: deque[Future[_BlockResult]] = deque()
        self._counts = [0, 0, 0]
        self._lock = threading.Lock()
        threading.Thread(target=self._run, daemon=True).start()

    def begin(self, opened: list[Any]) -> dict[str, str]:
        """Make what some work needs; gives the versions here."""
        import ray

        self._do = ray.get(opened[0])()
        return {**_versions(), "host": socket.gethostname()}

    def do(self, block: Any) -> _BlockResult:
        """Do a block, when those that were given before are done."""
        result: Future[_BlockResult] = Future()
        self._queue.put((block, result))
        return result.result()

    def _run(self) -> None:
        while True:
            block, result = self._queue.get()
            self._waiting.append(result)
            try:
                for done in self._do(chain([block], self._given()), self._tick):
                    self._waiting.popleft().set_result(self._block_result(done))
            except BaseException as error:
                while self._waiting:
                    self._waiting.popleft().set_exception(error)

    def _given(self) -> Iterator[Any]:
        """The blocks that are there. The stream ends with them: what is still on its way through it comes out."""
        while True:
            try:
                block, result = self._queue.get_nowait()
            except Empty:
                return
            self._waiting.append(result)
            yield block

    def _tick(self, samples: int = 0, failed: bool = False) -> None:
        with self._lock:
            self._counts[0] += 1
            self._counts[1] += samples
            self._counts[2] += failed

    def _block_result(self, done: Any) -> _BlockResult:
        with self._lock:
            result, self._counts = _BlockResult(done, *self._counts), [0, 0, 0]
        return result


def _cause(error: Any) -> BaseException:
    """What was raised in a worker, without Ray's traceback around it where it is an answer to the user."""
    cause: BaseException = getattr(error, "cause", None) or error
    return cause if isinstance(cause, InputError | KeyboardInterrupt | OSError) else error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _shortened(block: object) -> str:
    text = " ".join(repr(block).split())
    return text if len(text) <= 300 else f"{text[:300]} …"


def _versions() -> dict[str, str]:
    """What has to be the same on every machine."""
    from importlib.metadata import PackageNotFoundError, version

    from cpc.version import __version__

    found = {"cpc": __version__, "python": ".".join(map(str, sys.version_info[:2]))}
    for name in ("torch", "numpy"):
        with suppress(PackageNotFoundError):
            found[name] = version(name).partition("+")[0]
    return found
