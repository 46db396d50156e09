"""Arguments that several verbs share, and where tables are printed."""

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run, runs/NAME.")]
CorpusFolder = Annotated[Path, typer.Argument(metavar="CORPUS", help="A packed corpus, data/NAME.")]
TrainSplit = Annotated[str, typer.Option("--train", help="Split of the corpus to fit the classifier on.")]
TestSplit = Annotated[str, typer.Option("--test", help="Split of the corpus to evaluate it on.")]
Baselines = Annotated[bool, typer.Option(help="Also run MFCC, log-mel and random init (computed once, then cached).")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
EngineName = Annotated[
    Literal["local", "ray"],
    typer.Option(help="local: this machine, as it is; ray: the extra `ray`, one machine or many."),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="With --engine ray: a cluster's head, or auto. Default: RAY_ADDRESS, else this machine alone.",
    ),
]
Cpus = Annotated[float | None, typer.Option(help="With --engine ray: cores of each worker. Default: 1.")]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="With --engine ray: how many. Default: as many as there is room for."),
]
Gpus = Annotated[float | None, typer.Option(help="With --engine ray: GPUs of each worker. Default: 0.")]


class LayerOption(StrEnum):
    """What can be taken from a model."""

    z = "z"
    c = "c"


def open_device(name: str) -> str:
    """The device of that name for the rest of this process, which on a CPU keeps its freed memory from now on."""
    from cpc.device import device, keep_freed_memory

    chosen = device(name)
    keep_freed_memory(chosen)
    return str(chosen)


def console() -> "Console":
    """A console that keeps tables whole when the output is not a terminal."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)


def complain(message: str) -> None:
    """One line on stderr for each of the message's; of torchrun's processes, the first on a machine speaks for all."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        for line in message.splitlines():
            print(f"cpc: {line}", file=sys.stderr)
