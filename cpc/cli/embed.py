"""Verbs on audio: what a corpus holds, and the features of files."""

import math
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from cpc.cli.arguments import Address, CorpusFolder, Cpus, Device, EngineName, Gpus, LayerOption, console, open_device
from cpc.config import InputError


def corpus(
    corpus: CorpusFolder,
    out: Annotated[Path | None, typer.Option(metavar="PNG", help="The picture. Default: CORPUS/overview.png.")] = None,
    labels: Annotated[str | None, typer.Option(metavar="SCHEME", help="Labels to draw. Default: phones.")] = None,
) -> None:
    """What a packed corpus holds: a table of it, and a picture."""
    from cpc.data.corpus import Corpus
    from cpc.data.summary import Overview, draw, render

    opened = Corpus.open(corpus)
    overview = Overview(opened)
    console().print(render(overview))
    for reason in overview.broken:
        print(f"cpc: {reason}", file=sys.stderr)
    print(f"picture: {draw(overview, out or opened.folders[0] / 'overview.png', labels)}")


def embed(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="runs/NAME, or a .safetensors checkpoint.")],
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="An audio file, or a folder of any number of them; also a URL.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the features; also a URL.")],
    layer: Annotated[LayerOption, typer.Option(help="z: local, without memory; c: with context.")] = LayerOption.c,
    format: Annotated[
        Literal["npy", "parquet", "numpy-shards", "kaldi", "hdf5", "webdataset"],
        typer.Option(
            help="npy: one a file; parquet: one data set; numpy-shards: few large .npy with an index; kaldi: archives,"
            " with feats.scp to read from OUT; hdf5: a data set a file; webdataset: tars of .npy."
        ),
    ] = "npy",
    shard: Annotated[str, typer.Option(metavar="I/N", help="Do the I-th of N shares, into the same OUT.")] = "1/1",
    precision: Annotated[
        Literal["fp32", "tf32", "bf16", "auto"],
        typer.Option(help="auto: bf16 where the hardware has it, about twice as fast; features then differ by 1%."),
    ] = "fp32",
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Threads that decode, one a core; with --engine ray workers, as many as there is room."
        ),
    ] = None,
    device: Device = "auto",
    engine: EngineName = "local",
    address: Address = None,
    cpus: Cpus = None,
    gpus: Gpus = None,
) -> None:
    """Write the features (float32, frames × dim) of audio files; a command that was killed resumes when it is repeated.

    Files of any length, hours too. What gives no features is listed in OUT/skipped.tsv.
    """
    from cpc.data.pack import parse_shard
    from cpc.evaluation.embed.embed import embed as embed_files
    from cpc.evaluation.embed.inputs import BLOCK_FILES
    from cpc.models.checkpoint import load
    from cpc.scale.ray import engine_named

    share = parse_shard(shard)
    with engine_named(engine, address, workers if engine == "ray" else None, cpus, gpus) as chosen:
        if chosen and device != "auto":
            raise InputError(f"device={device}: with --engine ray models are where --gpus says; drop --device")
        done = embed_files(
            load(model, "cpu" if chosen else open_device(device)),
            source,
            out,
            layer.value,
            format=format,
            precision=precision,
            shard=share,
            workers=math.ceil(cpus or 1) + 1 if chosen else workers,
            progress=True,
            engine=chosen,
        )
    before = f" ({done.files - done.new} were there)" if done.files > done.new else ""
    print(f"{done.files} files written to {done.ledger.out}{before}, {done.skips} skipped")
    if not done.files and not done.skips:
        print(f"shard={shard}: has no files; files are shared out in blocks of up to {BLOCK_FILES}", file=sys.stderr)
    if done.skips:
        print(f"reasons: {done.ledger.out / 'skipped.tsv'}", file=sys.stderr)
    if done.notes:
        print(f"{done.notes} with a wrong length in their header: {done.ledger.out / 'notes.tsv'}", file=sys.stderr)
    if done.skips and not done.files:
        raise typer.Exit(1)
