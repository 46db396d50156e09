"""The engine for clusters beside local processes, a node that is killed, and a million items in bounded memory.

    python -m benchmarks.cluster [--only packing|embedding|kill|memory] [--files 10000] [--items 1000000]

Needs the extra `ray`. All nodes are processes of one machine (`ray.cluster_utils.Cluster`).
"""

import filecmp
import os
import shutil
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import numpy as np
import psutil
import soundfile
import typer

from benchmarks.measures import markdown
from cpc.audio.decode import walk_audio
from cpc.data.engine import Engine, Threads, Tick, Work, Worker
from cpc.data.pack import pack
from cpc.evaluation.embed.embed import embed
from cpc.evaluation.embed.inputs import File
from cpc.evaluation.embed.writers import Frames, open_part
from cpc.models.cpc import CPC, build
from cpc.scale.ray import RayEngine, connected
from cpc.training.recipe import load_config
from data_prep.console import run
from data_prep.metadata import describe

app = typer.Typer(add_completion=False)
RATE, BLOCK, DIM = 16000, 512, 16


def synthesise(folder: Path, files: int) -> float:
    """Files of noise of half a second to a second and a half in folders of a thousand; their seconds."""
    rng, total = np.random.default_rng(0), 0
    for number in range(files):
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.flac"
        path.parent.mkdir(exist_ok=True, parents=True)
        wave = rng.normal(0, 0.05, int(rng.uniform(RATE / 2, 3 * RATE / 2)))
        soundfile.write(path, wave.astype(np.float32), RATE)
        total += len(wave)
    return total / RATE


def untrained() -> CPC:
    return build(load_config("small", ["data.corpus=none"]).model).eval()


def overhead(name: Literal["packing", "embedding"], files: int, scratch: Path) -> None:
    """Packing or embedding of short files by local threads, and by 1, 2 and 4 actors of Ray."""
    seconds = synthesise(scratch / "in", files)
    model = untrained()

    def packing(out: Path, engine: Engine | None, workers: int) -> None:
        pack(describe(walk_audio(scratch / "in"), scratch / "in"), out, workers=workers, progress=False, engine=engine,
             shard_samples=1 << 22)  # fmt: skip

    def embedding(out: Path, engine: Engine | None, workers: int) -> None:
        threads = workers if engine is None else 2
        embed(model, scratch / "in", out, format="parquet", workers=threads, engine=engine)

    work = {"packing": packing, "embedding": embedding}[name]
    rows, before = [], 0.0
    with connected(at_least=4):
        for engine in (None, RayEngine(1), RayEngine(2), RayEngine(4)):
            start = time.perf_counter()
            work(scratch / "out", engine, 2)
            wall = time.perf_counter() - start
            if engine is not None:
                engine.close()
            shutil.rmtree(scratch / "out")
            before = before or wall
            who = f"{name}: local, 2 threads" if engine is None else f"{name}: Ray, {engine.workers} workers"
            rows.append([who, f"{wall:.1f}", f"{seconds / wall:,.0f}", f"{wall / before:.2f}"])
    cores = os.cpu_count()
    print(f"\n{files:,} files, {seconds / 3600:.2f} h, {cores} cores; workers' start is in their seconds\n")
    print(markdown(["engine", "s", "× real time", "× the seconds of local"], rows))


def kill(files: int, scratch: Path) -> None:
    """Embedding on a cluster of three nodes, left alone and with one of them killed in the middle."""
    import ray
    from ray.cluster_utils import Cluster

    synthesise(scratch / "in", files)
    model, rows = untrained(), []
    embed(model, scratch / "in", scratch / "local", format="parquet")
    for killed in (False, True):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")

        class Killing(RayEngine):
            def run(self, work: Any, progress: bool = True) -> Iterator[Any]:
                for number, done in enumerate(super().run(work, progress)):
                    if killed and number == 5:  # noqa: B023 (used within the round)
                        cluster.remove_node(nodes[0], allow_graceful=False)  # noqa: B023
                    yield done

        out = scratch / f"killed-{killed}"
        start = time.perf_counter()
        done = embed(model, scratch / "in", out, format="parquet", engine=Killing(3))
        wall = time.perf_counter() - start
        ray.shutdown()
        cluster.shutdown()
        parts = sorted(path.relative_to(scratch / "local") for path in (scratch / "local").rglob("*.parquet"))
        same = filecmp.cmpfiles(scratch / "local", out, parts, shallow=False)[0]
        rows.append(["one of three killed" if killed else "left alone", f"{wall:.1f}", str(done.files),
                     f"{len(same)} of {len(parts)}"])  # fmt: skip
    print("\n" + markdown([f"{files:,} files, three nodes", "s", "files with features", "parts as by local"], rows))


def synthetic(out: Path) -> Worker[tuple[int, int], int]:
    """Ten frames a number, by the writer of `cpc embed`: blocks are (number, items)."""

    def work(blocks: Iterator[tuple[int, int]], tick: Tick) -> Iterator[int]:
        for number, count in blocks:
            with open_part("parquet", out, number, DIM) as add:
                for start in range(0, count, 64):
                    found = []
                    for item in range(start, min(start + 64, count)):
                        frames = np.full((10, DIM), number * BLOCK + item, np.float32)
                        file = File(f"{number * BLOCK + item:07d}", f"{number * BLOCK + item:07d}.wav", 3200)
                        found.append(Frames(file, 10, partial(lambda x: [x], frames)))
                        tick(1600)
                    add(found)
            yield count

    return work


def bounded(items: int, scratch: Path) -> None:
    """The plumbing at a hundredth, a tenth and the whole of so many items: seconds, and the most memory of each."""
    rows = []
    for count in (items // 100, items // 10, items):
        for engine in (Threads(2), RayEngine(2)):
            out, most = scratch / "out", {"driver": 0, "workers": 0}
            stop = threading.Event()

            def watch(most: dict[str, int], stop: threading.Event) -> None:
                me = psutil.Process()
                while not stop.wait(0.05):
                    own = me.memory_info().rss
                    others = [_rss(child) for child in me.children(recursive=True)]
                    most["driver"] = max(most["driver"], own)
                    most["workers"] = max([most["workers"], *others])

            thread = threading.Thread(target=watch, args=(most, stop))
            blocks = ((n, min(BLOCK, count - n * BLOCK)) for n in range(-(-count // BLOCK)))
            with connected(at_least=2):
                thread.start()
                start = time.perf_counter()
                done = sum(engine.run(Work("items", blocks, partial(synthetic, out), count, RATE), progress=False))
                wall = time.perf_counter() - start
                stop.set()
                thread.join()
            shutil.rmtree(out)
            if done != count:
                raise RuntimeError(f"done={done}: must be {count}")
            name = "threads" if isinstance(engine, Threads) else "Ray, 2 workers"
            sizes = [f"{most[key] / 2**20:,.0f}" for key in ("driver", "workers")]
            if isinstance(engine, Threads):
                sizes[1] = ""
            rows.append([f"{count:,}, {name}", f"{wall:.1f}", f"{count / wall:,.0f}", *sizes])
    print("\n" + markdown(["items", "s", "items a second", "driver's most MiB", "a worker's most MiB"], rows))


def _rss(process: psutil.Process) -> int:
    """Of a worker; Ray's own servers do not count."""
    try:
        return int(process.memory_info().rss) if "ray::" in " ".join(process.cmdline()) else 0
    except psutil.Error:
        return 0


@app.command()
def main(
    only: Annotated[Literal["packing", "embedding", "kill", "memory"] | None, typer.Option()] = None,
    files: Annotated[int, typer.Option()] = 10_000,
    items: Annotated[int, typer.Option()] = 1_000_000,
) -> None:
    """Measure, and print tables."""
    packing, embedding = partial(overhead, "packing"), partial(overhead, "embedding")
    each = (("packing", packing, files), ("embedding", embedding, files), ("kill", kill, files))
    for name, work, size in (*each, ("memory", bounded, items)):
        if only in (None, name):
            with TemporaryDirectory() as scratch:
                work(size, Path(scratch))


if __name__ == "__main__":
    run(app)
