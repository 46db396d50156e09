"""What packing costs beside decoding, what it holds in memory, and what a million utterances cost to open and to draw.

    taskset -c 1 python -m benchmarks.corpus [--corpus-audio FOLDER] [--only packing|memory|opening]

Everything runs on one thread of one core (pin it, as above, if others run beside it). Times are CPU seconds where
the table says so: they stand still while a busy machine does something else; a wall clock does not. What opening and
drawing take is the least of five calls, but for the first opening in a process. What a section needs on disk (at most
8 GB) lies in a temporary folder of `--scratch` and is gone when it ends.
"""

import json
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import torch
import typer

from benchmarks import large
from benchmarks.measures import child as measure
from benchmarks.measures import markdown, memory, timed
from benchmarks.packing import FILES, memories, packing, synthesise
from cpc.audio.decode import find_audio
from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.data.sampler import WindowConfig, WindowSampler
from cpc.device import device_name
from data_prep.console import run

app = typer.Typer(add_completion=False)

BATCHES = 200
SIZES = (1_000, 10_000, 100_000, 1_000_000)  # utterances
TIMES = {
    "first": "open, first in a process",
    "open": "open",
    "rows": "rows of a split, a tenth of all",
    "labels": "open labels",
    "intervals": "labels of one utterance",
    "windows": "windows over all",
    "speakers": "windows over all by speaker",
    "batch": f"batch of {WindowConfig().batch_size} windows",
    "again": "the same batch again",
    "one speaker": "batch of one speaker",
}


def open_in_child(utterances: int, scratch: Path) -> dict[str, float]:
    """Times and memory of opening a corpus in a fresh process, and of drawing batches from it."""
    path = scratch / "corpus"
    found: dict[str, float] = {}

    def clock(name: str, work: Callable[[], Any], times: int = 5) -> Any:
        results: list[Any] = []
        taken = [timed(lambda: results.append(work())) for _ in range(times)]
        found[f"{name} cpu"], found[name] = (min(column) for column in zip(*taken, strict=True))
        return results[0]

    clock("first", lambda: Corpus.open(path), times=1)
    found["opened MiB"] = memory("VmRSS")
    corpus = clock("open", lambda: Corpus.open(path))
    rows = clock("rows", lambda: corpus.rows("tenth"))
    labels = clock("labels", corpus.labels)
    clock("intervals", lambda: labels.intervals(corpus.column("id")[int(rows[-1])].as_py()))
    windows = clock("windows", lambda: WindowSampler(corpus, np.arange(len(corpus)), WindowConfig(), 0))
    speakers = clock(
        "speakers", lambda: WindowSampler(corpus, np.arange(len(corpus)), WindowConfig(same_speaker_batches=True), 0)
    )
    for name, given in (("one speaker", speakers), ("batch", windows), ("again", windows)):
        taken = [timed(partial(given.read, step)) for step in range(BATCHES)]
        found[f"{name} cpu"], found[name] = (statistics.median(column) for column in zip(*taken, strict=True))
    found["end MiB"] = memory("VmRSS")
    return found


def openings(scratch: Path, most: int) -> None:
    """Opening, splits, labels and batches by the number of utterances, with ratios to the smallest corpus."""
    found = {}
    for utterances in (size for size in SIZES if size <= most):
        large.make(scratch / "corpus", utterances)
        found[utterances] = measure("opening", utterances, scratch)
        shutil.rmtree(scratch / "corpus")
    smallest, *_, largest = found.values()
    rows = [
        [f"{title}, ms", *(f"{1e3 * f[f'{name} cpu']:.2f} ({1e3 * f[name]:.2f})" for f in found.values())]
        for name, title in TIMES.items()
    ]
    for row, name in zip(rows, TIMES, strict=True):
        row.append(f"{largest[f'{name} cpu'] / smallest[f'{name} cpu']:.1f}")
    for name, title in (("opened MiB", "memory when it is open, MiB"), ("end MiB", "memory at the end, MiB")):
        rows.append([title, *(f"{f[name]:.0f}" for f in found.values()), f"{largest[name] / smallest[name]:.2f}"])
    print("\nMilliseconds of CPU (of wall clock).\n")
    print(markdown(["utterances", *(f"{size:,}" for size in found), "ratio"], rows))


CHILDREN = {"opening": open_in_child}


@app.command()
def main(
    corpus_audio: Annotated[
        Path | None, typer.Option(help="A folder of audio to pack besides the synthetic one.")
    ] = None,
    only: Annotated[str, typer.Option(help="One section: packing, memory or opening.")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of packing and decoding in turns.")] = 5,
    hours: Annotated[float, typer.Option(help="Hours of synthetic FLAC to pack.")] = 2,
    most: Annotated[int, typer.Option(help="The most utterances to open.")] = SIZES[-1],
    most_files: Annotated[int, typer.Option(help="The most files to pack for its memory.")] = FILES[-1],
    seconds: Annotated[float, typer.Option(help="Length of each file that is packed for its memory.")] = 0.5,
    scratch: Annotated[Path | None, typer.Option(help="Where to make the temporary folder.")] = None,
    child: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    if child:
        section, size, place = child.split(":", 2)
        print(json.dumps(CHILDREN[section](int(size), Path(place))))
        return
    if only and only not in (sections := ("packing", "memory", *CHILDREN)):
        raise InputError(f"only={only}: must be one of {', '.join(sections)}")
    libraries = ", ".join(f"{name} {version(name)}" for name in ("numpy", "pyarrow", "soundfile"))
    libraries += f" (libsndfile {soundfile.__libsndfile_version__})"
    print(f"{device_name(torch.device('cpu'))}; Python {platform.python_version()}, {libraries}")
    print(f"{time.strftime('%Y-%m-%d', time.gmtime())}: {' '.join(['python -m benchmarks.corpus', *sys.argv[1:]])}")
    with tempfile.TemporaryDirectory(dir=scratch, prefix="corpus-benchmark-") as temporary:
        folder = Path(temporary)
        if only in ("", "packing"):
            (folder / "flac").mkdir()
            packing(synthesise(folder / "flac", hours), folder, rounds, "tones in noise, FLAC")
            if corpus_audio:
                packing(find_audio(corpus_audio), folder, rounds, corpus_audio.name)
        if only in ("", "memory"):
            memories(folder, most_files, seconds)
        if only in ("", "opening"):
            openings(folder, most)


if __name__ == "__main__":
    run(app)
