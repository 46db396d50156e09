"""Verbs on audio: what a corpus holds, and the features of files."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cpc.cli.arguments import CorpusFolder, Device, Layer, console


def corpus(
    corpus: CorpusFolder,
    out: Annotated[Path | None, typer.Option(metavar="PNG", help="The picture. Default: CORPUS/overview.png.")] = None,
    labels: Annotated[str | None, typer.Option(metavar="SCHEME", help="Labels to draw. Default: phones.")] = None,
) -> None:
    """What a packed corpus holds: a table of it, and a picture."""
    from cpc.corpus import Corpus
    from cpc.corpus.overview import Overview, render
    from cpc.corpus.picture import draw

    overview = Overview(Corpus.open(corpus))
    console().print(render(overview))
    for reason in overview.broken:
        print(f"cpc: {reason}", file=sys.stderr)
    print(f"picture: {draw(overview, out or corpus / 'overview.png', labels)}")


def embed(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="runs/NAME, or a .safetensors checkpoint.")],
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="An audio file, or a folder of them.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the .npy files.")],
    layer: Annotated[Layer, typer.Option(help="z: local, without memory; c: with context.")] = Layer.c,
    device: Device = "auto",
) -> None:
    """Write one float32 .npy (frames × dim) for each audio file; subfolders are kept."""
    from cpc.distributed import device as find_device
    from cpc.evaluation.embed import embed as embed_files
    from cpc.model import load

    done = embed_files(load(model, find_device(device)), source, out, layer.value, progress=True)
    for path, reason in done.skipped:
        print(f"skipped {path}: {reason}", file=sys.stderr)
    print(f"{len(done.written)} files written to {out}, {len(done.skipped)} skipped")
    if not done.written:
        raise typer.Exit(1)
