"""Labels for a packed corpus, from anywhere: the CPC paper's file, TextGrids, TIMIT's .PHN files, or an alignment.

cpc data labels CORPUS (--cpc FILE | --textgrid FOLDER | --phn [FOLDER] | --align) [--scheme NAME]
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from cpc.cli.arguments import Address, Cpus, EngineName
from cpc.config import InputError
from cpc.data.alignment import AlignedRow, read_cpc_phones
from cpc.data.corpus import Corpus
from cpc.data.engine import Engine
from cpc.data.pack import parse_shard
from cpc.data.remote import refuse_copy
from cpc.scale.ray import engine_named, load_ray
from cpc.version import __version__

from .console import run
from .label_files import Labels, check_scheme, take
from .processes import cores
from .textgrid import PhoneSet, take_textgrids
from .timit import take_phn

LABELS = "converted_aligned_phones.txt"
FIRST_CENTRE = 200  # sample at the centre of label 0 in the CPC paper's file
app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

Packed = Annotated[Path, typer.Argument(help="A packed corpus.", metavar="CORPUS")]
Folder = Annotated[Path | None, typer.Argument(help="With --phn: where the .PHN files lie.", metavar="FOLDER")]
Cpc = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help=f"Labels each 10 ms as in {LABELS}\\[.gz]; names from phones.txt beside it."),
]
Textgrid = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="TextGrids of the Montreal Forced Aligner: tiers phones and words."),
]
Phn = Annotated[
    bool, typer.Option("--phn", help="TIMIT's .PHN files, in FOLDER or beside the audio: 61 phones, folded to 48, 39.")
]
Align = Annotated[bool, typer.Option("--align", help="Align the corpus's transcripts to its audio, here and now.")]
Scheme = Annotated[str, typer.Option(help="Name of the labels; probes use phones unless told otherwise.")]
Centre = Annotated[
    int | None,
    typer.Option(help=f"With --cpc: the sample at the centre of label 0; {FIRST_CENTRE} in the CPC paper's file."),
]
Phones = Annotated[
    Literal["arpabet", "as-is"],
    typer.Option("--phone-set", help="With --textgrid: fold ARPAbet to 41 classes, or keep the phones as they are."),
]
Partial = Annotated[bool, typer.Option("--partial", help="Take what fits, however much does not.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes at a time. Default: one a core.")]
Shard = Annotated[str | None, typer.Option(metavar="I/N", help="With --align: do part I of N of the work.")]


@app.command()
def main(
    corpus: Packed,
    folder: Folder = None,
    *,
    cpc: Cpc = None,
    textgrid: Textgrid = None,
    phn: Phn = False,
    align: Align = False,
    scheme: Scheme = "phones",
    first_centre: Centre = None,
    phone_set: Phones = "arpabet",
    partial: Partial = False,
    workers: Workers = None,
    shard: Shard = None,
    engine: EngineName = "local",
    address: Address = None,
    cpus: Cpus = None,
) -> None:
    """Give a packed corpus labels, from exactly one source. Several schemes stand beside each other.

    Labels of utterances that the corpus does not have, or whose length differs from the audio by more than 50 ms,
    are counted and skipped. Where that is too many (more than 1%, or most of the ids), all are refused and nothing
    changes, unless you say --partial.
    """
    if engine == "ray":
        load_ray()
    _one_source({"--cpc": cpc is not None, "--textgrid": textgrid is not None, "--phn": phn, "--align": align})
    _belongs("FOLDER", folder is not None, "--phn", phn)
    _belongs("--first-centre", first_centre is not None, "--cpc", cpc is not None)
    _belongs("--phone-set", phone_set != "arpabet", "--textgrid", textgrid is not None)
    _belongs("--shard", shard is not None, "--align", align)
    _belongs("--engine", engine != "local", "--align", align)
    check_scheme(scheme)
    opened = Corpus.open(corpus)
    if len(opened.parts) > 1:
        raise InputError(f"CORPUS={corpus}: labels are given to one corpus at a time; run this for each")
    refuse_copy(opened.path)
    processes = workers or cores()
    if cpc is not None:
        typer.echo(f"{cpc}:")
        take_cpc(opened, cpc, FIRST_CENTRE if first_centre is None else first_centre, scheme, partial=partial)
    elif textgrid is not None:
        take_textgrids(opened, textgrid, scheme, phone_set=_phone_set(phone_set), workers=processes, partial=partial)
    elif phn:
        take_phn(opened, folder or _audio_folder(opened), scheme, workers=processes, partial=partial)
    else:
        with engine_named(engine, address, workers if engine == "ray" else None, cpus) as chosen:
            _align(opened, scheme, workers, shard, chosen)


def _one_source(given: dict[str, bool]) -> None:
    named = [option for option, is_given in given.items() if is_given]
    if len(named) != 1:
        said = " and ".join(named) or "none"
        raise InputError(f"labels: give exactly one of --cpc FILE, --textgrid FOLDER, --phn and --align, not {said}")


def _belongs(option: str, given: bool, source: str, chosen: bool) -> None:
    if given and not chosen:
        raise InputError(f"{option}: belongs to {source}, which is not given")


def _phone_set(name: str) -> PhoneSet:
    return "as-is" if name == "as-is" else "arpabet"


def _audio_folder(corpus: Corpus) -> Path:
    """Where the corpus's audio lay when it was packed. Raises InputError if that is not known (any more)."""
    origin = corpus.path / "origin.json"
    known = json.loads(origin.read_text(encoding="utf-8")).get("audio", "") if origin.is_file() else ""
    if known and Path(known).is_dir():
        return Path(known)
    where = f"its audio is no longer at {known}" if known else f"{corpus.path} does not know where its audio lay"
    raise InputError(f"--phn: {where}; name the folder of the .PHN files: --phn FOLDER")


def _align(corpus: Corpus, scheme: str, workers: int | None, shard: str | None, engine: Engine | None) -> None:
    part = None if shard is None else parse_shard(shard)
    from .align import align

    for line in align(corpus, scheme=scheme, workers=workers, shard=part, engine=engine).lines():
        typer.echo(line)


def take_phones(corpus: Corpus, file: Path, first_centre: int) -> None:
    """`take_cpc` as a step of packing, where the file was found beside the audio."""
    typer.echo(f"phone labels from {file} (disable with --phones none):")
    try:
        take_cpc(corpus, file, first_centre)
    except InputError as error:
        again = f"cpc data labels {corpus.path} --cpc {file}"
        rest = f"all else is packed; do without these labels (--phones none), or take them in later: {again}"
        raise InputError(f"{error}; {rest}") from error


def take_cpc(
    corpus: Corpus, file: Path, first_centre: int = FIRST_CENTRE, scheme: str = "phones", *, partial: bool = False
) -> None:
    """Take in frame labels of the CPC paper's format, but none that do not fit the length of their audio.

    Raises InputError for a broken file, and if too many do not fit: see `data_prep.label_files`.
    """
    if not file.is_file():
        raise InputError(f"--cpc={file}: no such file")
    names = file.parent / "phones.txt"
    rows = read_cpc_phones(file, first_centre)
    held = list(rows) if not names.is_file() else []  # without names, the largest number says how many classes
    with file.open("rb") as bytes_of:
        sha256 = hashlib.file_digest(bytes_of, "sha256").hexdigest()
    labels = Labels(
        scheme=scheme,
        rows=held or rows,
        inventory=read_inventory(names, held),
        source=file.name,
        provenance={
            "kind": "cpc",
            "reader": f"cpc {__version__}",
            "file": file.name,
            "sha256": sha256,
            "first_centre": first_centre,
        },
        origin=str(file),
        note=f"label 0 centred at sample {first_centre}",
    )
    take(corpus, labels, partial=partial)


def read_inventory(path: Path, rows: list[AlignedRow]) -> list[str]:
    """Names of the classes from lines `NAME` or `NAME NUMBER`; without that file, the numbers themselves."""
    if not path.is_file():
        return [str(label) for label in range(1 + max((int(row.labels.max(initial=0)) for row in rows), default=0))]
    words = [line.split() for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    rule = f"{path}: lines must be `NAME` or `NAME NUMBER`, numbers 0 to {len(words) - 1}, each once"
    try:
        names = {int(word[1]) if len(word) > 1 else place: word[0] for place, word in enumerate(words)}
    except ValueError as error:
        raise InputError(rule) from error
    if sorted(names) != list(range(len(words))):
        raise InputError(rule)
    return [names[number] for number in range(len(words))]


if __name__ == "__main__":
    run(app)
