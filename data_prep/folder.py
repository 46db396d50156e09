"""Pack a folder of audio (any format of libsndfile, any layout) into a corpus, with what lies beside it.

python -m data_prep.folder AUDIO_FOLDER OUT [--table TSV] [--splits DIR|none] [--phones FILE|none]
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from cpc.audio import find_audio
from cpc.config import InputError
from cpc.corpus import (
    AlignedRow,
    Corpus,
    PackReport,
    Source,
    pack,
    read_cpc_phones,
    read_ids,
    write_alignment,
    write_split,
)
from data_prep.console import run
from data_prep.metadata import describe, join, read_table

LABELS = "converted_aligned_phones.txt"
TOLERANCE = 0.05  # seconds by which labels and audio may differ in length
app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

Audio = Annotated[Path, typer.Argument(help="Folder of audio files, or one file.", metavar="AUDIO_FOLDER")]
Out = Annotated[Path, typer.Argument(help="Folder of the packed corpus.")]
Table = Annotated[
    Path | None,
    typer.Option(help="TSV whose first line names id and any of speaker, chapter, sex, subset, text, path."),
]
Splits = Annotated[
    str | None,
    typer.Option(help="Folder of id lists NAME.txt, or none. Default: splits/ beside the audio or the table."),
]
Phones = Annotated[
    str | None,
    typer.Option(help=f"Phone labels, one each 10 ms, or none. Default: {LABELS}\\[.gz] beside table or audio."),
]
Centre = Annotated[int, typer.Option(help="The sample at the centre of label 0; 200 in the CPC paper's file.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Shards packed at a time. Default: one a core.")]


@app.command()
def main(
    audio: Audio,
    out: Out,
    *,
    table: Table = None,
    splits: Splits = None,
    phones: Phones = None,
    first_centre: Centre = 200,
    workers: Workers = None,
) -> None:
    """Pack a folder of FLAC, WAV, Ogg, Opus, MP3 … into a corpus that is fast to train on.

    LibriSpeech's layout gives speakers, chapters, transcripts and sexes. In any other, the parent folder is
    the speaker. Killed at any moment, the same command continues.
    """
    start = time.monotonic()
    report = pack(_sources(audio, table), out, workers=workers)
    _say_packed(report, out, time.monotonic() - start)
    corpus = Corpus.open(out)
    near = [table.absolute().parent, table.absolute().parent.parent] if table else []
    near += [audio, audio.absolute().parent]
    if folder := _choose("splits", splits, [place / "splits" for place in near]):
        take_splits(corpus, folder)
    if file := _choose("phones", phones, [place / (LABELS + end) for place in near for end in ("", ".gz")]):
        take_phones(corpus, file, first_centre)


def _sources(audio: Path, table: Path | None) -> list[Source]:
    sources = list(describe(find_audio(audio), audio if audio.is_dir() else audio.parent))
    typer.echo(f"found {len(sources)} audio files in {audio}")
    if table is None:
        return sources
    rows = read_table(table)
    folder = table.absolute().parent
    sources, unused, without = join(sources, rows, [folder.parent, folder, audio])
    typer.echo(f"table {table}: {len(rows)} rows, {unused} of them without a file; {without} files without a row")
    return sources


def _say_packed(report: PackReport, out: Path, seconds: float) -> None:
    amount = f"{report.packed} utterances, {report.seconds / 3600:.2f} h"
    if report.fresh:
        typer.echo(f"packed {amount} into {out} in {seconds:.1f} s ({report.seconds / seconds:,.0f} × real time)")
    else:
        typer.echo(f"{out} already holds this corpus ({amount}): nothing to pack")
    where = out / "skipped.tsv"
    if not report.packed:
        raise InputError(f"audio: none of the {report.skipped} files could be decoded; {where} says why")
    typer.echo(
        f"skipped {report.skipped} files" + (f" that give no usable audio: see {where}" if report.skipped else "")
    )


def _choose(option: str, given: str | None, places: list[Path]) -> Path | None:
    """What the user named (none for nothing), else the first of `places` that exists."""
    if given == "none":
        return None
    if given is None:
        return next((place for place in places if place.exists()), None)
    if not Path(given).exists():
        raise InputError(f"{option}={given}: no such file or folder; name another, or none")
    return Path(given)


def take_splits(corpus: Corpus, folder: Path) -> None:
    """Take in every id list of a folder, without the ids that the corpus does not have, and say so."""
    known = set(corpus.ids)
    typer.echo(f"splits from {folder} (refuse them with --splits none):")
    for file in sorted(folder.glob("*.txt")):
        ids = read_ids(file)
        kept = [id for id in ids if id in known]
        unknown = f", {len(ids) - len(kept)} unknown ids left out" if len(kept) < len(ids) else ""
        typer.echo(f"  {file.stem}: {len(kept)} ids{unknown}{'' if kept else '; not taken'}")
        if kept:
            write_split(corpus.path, file.stem, kept)


def take_phones(corpus: Corpus, file: Path, first_centre: int) -> None:
    """Take in frame labels of the CPC paper's format, but none that do not fit the length of their audio."""
    rows = list(read_cpc_phones(file, first_centre))
    inventory = read_inventory(file.parent / "phones.txt", rows)
    durations = dict(zip(corpus.ids, (corpus.samples / corpus.sample_rate).tolist(), strict=True))
    known = [row for row in rows if row.id in durations]
    fitting = [_fit(row, durations[row.id]) for row in known if _fits(row, durations[row.id])]
    typer.echo(f"phone labels from {file} (refuse them with --phones none):")
    counts = f"{len(fitting)} of {len(corpus)} utterances labelled, {len(rows) - len(known)} unknown ids left out"
    typer.echo(f"  {counts}, {len(inventory)} classes, label 0 centred at sample {first_centre}")
    if misfits := [row for row in known if not _fits(row, durations[row.id])]:
        rule = f"differ in length from the audio by more than {1000 * TOLERANCE:.0f} ms"
        example = f"{misfits[0].id}: labels {_end(misfits[0]):.3f} s, audio {durations[misfits[0].id]:.3f} s"
        typer.echo(f"  refused the labels of {len(misfits)} utterances: they {rule}, for example {example}")
    if fitting:
        write_alignment(corpus.path, "phones", fitting, inventory, file.name)


def _end(row: AlignedRow) -> float:
    return float(row.offsets[-1]) if len(row.offsets) else 0.0


def _fits(row: AlignedRow, duration: float) -> bool:
    return abs(_end(row) - duration) <= TOLERANCE


def _fit(row: AlignedRow, duration: float) -> AlignedRow:
    """The intervals that begin inside the audio, the last one to its end."""
    count = int(np.searchsorted(row.onsets, duration))
    offsets = row.offsets[:count].copy()
    offsets[-1:] = duration
    return AlignedRow(row.id, row.onsets[:count], offsets, row.labels[:count])


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
