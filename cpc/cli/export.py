"""Verbs that bring other tools' models in and take ours out."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cpc.config import InputError


class Format(StrEnum):
    """What a model can become."""

    safetensors = "safetensors"
    torch_export = "torch-export"
    onnx = "onnx"
    onnx_stream = "onnx-stream"
    cpc_audio = "cpc_audio"
    hf = "hf"


FORMATS = (
    "safetensors: weights and settings alone, which cpc.load opens. torch-export: a program (.pt2). onnx: waveform to"
    " z and c. onnx-stream: a chunk and the state to z, c and the next state. cpc_audio: a .pt file for CPC_audio,"
    " s3prl and ZeroSpeech. hf: a folder for Hugging Face transformers, with a model card."
)


def convert(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="A .pt of CPC_audio, Libri-Light or s3prl's modified_cpc.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the run to make, such as runs/released.")],
    experiment: Annotated[str, typer.Option(help="MLflow experiment of the run.")] = "converted",
) -> None:
    """Make a run of another tool's CPC model: every verb works on it, and training can start from it.

    Settings that the file lacks are read from checkpoint_args.json beside it. Nothing in the file is ever executed.
    """
    from cpc.models.convert import read_foreign
    from cpc.training.run import import_run

    found = read_foreign(checkpoint)
    folder = import_run(found, out, experiment, source=checkpoint.name)
    model, context = found.config, found.config.context
    heads = f"{found.steps} {found.heads.kind} heads" if found.heads else "no heads"
    layers = f"{context.kind.upper()} of {context.layers} × {context.hidden}"
    print(f"{folder}: encoder of {model.encoder.widths[-1]} channels, norm {model.encoder.norm}; {layers}; {heads}")
    for note in found.notes:
        print(f"note: {note}")
    print(f"train on: cpc train {folder}/config.yaml model.init={folder} data.corpus=data/NAME --name NEW")


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="runs/NAME, or a .safetensors checkpoint.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File to write; for hf a folder.")],
    to: Annotated[Format, typer.Option("--to", help=FORMATS)] = Format.safetensors,
) -> None:
    """Write a run's model for other tools: one file, any number of samples in, z and c out."""
    from cpc.evaluation.report import model_card
    from cpc.models import export as formats
    from cpc.models.checkpoint import checkpoint_file, load, read_checkpoint
    from cpc.models.convert import write_cpc_audio

    if out.is_dir() and to is not Format.hf:
        raise InputError(f"OUT={out}: is a folder; name the file to write")
    if out.is_file() and to is Format.hf:
        raise InputError(f"OUT={out}: is a file; name a folder")
    model = load(run)
    match to:
        case Format.safetensors:
            formats.export_safetensors(model, out)
        case Format.torch_export:
            formats.export_torch(model, out)
        case Format.onnx | Format.onnx_stream:
            formats.export_onnx(model, out, stream=to is Format.onnx_stream)
        case Format.cpc_audio:
            header, tensors = read_checkpoint(checkpoint_file(run))
            if ((header.get("config") or {}).get("loss") or {}).get("aligned_predictions"):
                tensors = {}  # CPC_audio would take the m-th of aligned predictions for the one of frame t + m
            heads = {name.removeprefix("loss."): value for name, value in tensors.items() if name.startswith("loss.")}
            write_cpc_audio(out, model, heads)
        case Format.hf:
            formats.export_hf(model, out, model_card(run))
    size = sum(file.stat().st_size for file in (out.iterdir() if out.is_dir() else [out]))
    print(f"{out}: {size / 1e6:.1f} MB, {to.value}")
