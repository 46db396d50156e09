"""Splits of a packed corpus: drawn, taken in from the CPC paper's lists, and compared.

cpc data splits CORPUS (--by utterance|chapter|speaker | --cpc TRAIN TEST | --overlap [A B]) [--name NAME]
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from jaxtyping import Int
from numpy import ndarray

from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.data.shards import read_ids
from cpc.data.splits import (
    Extent,
    HeldOut,
    Overlap,
    extents,
    has_speaker,
    hold_out,
    hold_out_within,
    overlaps,
    read_splits,
    write_split,
)

from .console import run

Rows = Int[ndarray, " row"]
EXAMPLES = 3
app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


class By(StrEnum):
    """What is held out as a whole."""

    utterance = "utterance"
    chapter = "chapter"
    speaker = "speaker"


Packed = Annotated[Path, typer.Argument(help="A packed corpus.", metavar="CORPUS")]
Names = Annotated[list[str] | None, typer.Argument(help="With --overlap: the splits to compare.", metavar="SPLIT")]
ByOption = Annotated[
    By | None,
    typer.Option(
        help="What is held out as a whole. utterance: of every speaker some utterances, as in the CPC paper; chapter: "
        "of every speaker some chapters, an honest test of speakers; speaker: some speakers, an honest test of phones."
    ),
]
Share = Annotated[float, typer.Option(help="Share that is held out, between 0 and 1.")]
Seed = Annotated[int, typer.Option(help="Same seed, same split.")]
Cpc = Annotated[
    tuple[Path, Path] | None,
    typer.Option(metavar="TRAIN TEST", help="Take in two lists of ids: train_split.txt and test_split.txt."),
]
Name = Annotated[str | None, typer.Option(help="Splits are called NAME_train and NAME_test. Default: train and test.")]
Within = Annotated[str | None, typer.Option(metavar="SPLIT", help="With --by: draw among the utterances of a split.")]
Labelled = Annotated[
    str | None, typer.Option(metavar="SCHEME", help="With --by: draw among the utterances that have such labels.")
]
Compare = Annotated[bool, typer.Option("--overlap", help="Print what splits share: the two named, or any two.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace splits of that name that hold other ids.")]


@app.command()
def main(
    corpus: Packed,
    names: Names = None,
    *,
    by: ByOption = None,
    share: Share = 0.2,
    seed: Seed = 0,
    cpc: Cpc = None,
    name: Name = None,
    within: Within = None,
    labelled: Labelled = None,
    overlap: Compare = False,
    overwrite: Overwrite = False,
) -> None:
    """Draw splits, take them in, or compare them. Without any of these, list them.

    CORPUS may be several folders with commas between, which are drawn from as one; each keeps its own ids.

    A speaker probe needs every test speaker in train: --by chapter (or --by utterance, which shares recording
    sessions). A phone probe wants test speakers that are not in train: --by speaker.
    """
    opened = Corpus.open(corpus)
    _check(by, cpc, overlap, names, within or labelled)
    if by is not None:
        _write(opened, name, _drawn(opened, by, share, seed, _among(opened, within, labelled)), overwrite)
    elif cpc is not None:
        _write(opened, name, [_listed(opened, file) for file in cpc], overwrite)
    elif names:
        _say_overlap(opened, {one: opened.rows(one) for one in names})
    else:
        _list(opened, overlap)


def _check(by: By | None, cpc: object, overlap: bool, names: Sequence[str] | None, among: str | None) -> None:
    given = {"--by": by is not None, "--cpc": cpc is not None, "--overlap": overlap}
    if sum(given.values()) > 1:
        raise InputError(f"splits: give one of {' and '.join(option for option in given if given[option])}")
    if names and not overlap:
        raise InputError(f"SPLIT={names[0]}: belongs to --overlap, which is not given")
    if names and len(set(names)) < 2:
        raise InputError(f"--overlap {names[0]}: name two splits, or none for any two of the corpus")
    if among and by is None:
        raise InputError("--within and --labelled: belong to --by, which is not given")


def _among(corpus: Corpus, within: str | None, labelled: str | None) -> Rows:
    """The rows to draw from."""
    rows: Rows = np.arange(len(corpus)) if within is None else np.unique(corpus.rows(within))
    if labelled is None:
        return rows
    import pyarrow.compute as pc

    has = pc.is_in(corpus.column("id"), value_set=corpus.labels(labelled).ids).to_numpy(zero_copy_only=False)[rows]
    if not has.any():
        raise InputError(f"--labelled {labelled}: none of the {len(rows)} utterances has such labels")
    typer.echo(f"{np.count_nonzero(has)} of {len(rows)} utterances have the labels {labelled}")
    chosen: Rows = rows[has]
    return chosen


def _drawn(corpus: Corpus, by: By, share: float, seed: int, among: Rows) -> list[list[str]]:
    """The ids to train on and to test on."""
    if by is By.speaker:
        unknown = among[~has_speaker(corpus, among)]
        drawn = HeldOut(*hold_out(corpus, share, seed, "speaker", among), left_out=unknown)
    else:
        drawn = hold_out_within(corpus, share, seed, "chapter" if by is By.chapter else "utterance", among)
    if len(drawn.left_out):
        unknown = drawn.left_out[~has_speaker(corpus, drawn.left_out)]
        if len(unknown):
            typer.echo(f"skipped on both sides: {len(unknown)} utterances whose speaker is not known")
        if alone := len(drawn.left_out) - len(unknown):
            speakers = extents(corpus, {"": drawn.left_out})[""].speakers
            why = f"whose speakers ({speakers}) have only one {by.value}"
            typer.echo(f"skipped on both sides: {alone} utterances {why}")
    return [[corpus.ids[row] for row in rows.tolist()] for rows in (drawn.train, drawn.test)]


def _listed(corpus: Corpus, file: Path) -> list[str]:
    """The ids of a file that the corpus has, each once; what it does not have is counted."""
    ids = _read(file)
    kept = known_ids(corpus, ids)
    if not kept:
        examples = ", ".join(ids[:EXAMPLES]) or "it is empty"
        raise InputError(
            f"--cpc {file}: none of its {len(ids)} ids is in {corpus.path} ({examples}); nothing was written"
        )
    typer.echo(f"{file}: {len(kept)} ids{_unknown(ids, kept)}")
    return kept


def _read(file: Path) -> list[str]:
    if not file.is_file():
        raise InputError(f"split={file}: no such file")
    try:
        return list(dict.fromkeys(read_ids(file)))
    except UnicodeDecodeError:
        raise InputError(f"split={file}: is no list of ids, one a line, in UTF-8") from None


def known_ids(corpus: Corpus, ids: Sequence[str]) -> list[str]:
    """Those of `ids` that the corpus has, in their order."""
    import pyarrow as pa
    import pyarrow.compute as pc

    known = pc.is_in(pa.array(ids, pa.string()), value_set=corpus.column("id"))
    return [id for id, is_known in zip(ids, known.to_pylist(), strict=True) if is_known]


def _unknown(ids: Sequence[str], kept: Sequence[str]) -> str:
    if len(kept) == len(ids):
        return ""
    held = set(kept)
    examples = [id for id in ids if id not in held]
    return f", {len(examples)} unknown ids skipped ({', '.join(examples[:EXAMPLES])})"


def _write(corpus: Corpus, name: str | None, sides: Sequence[Sequence[str]], overwrite: bool) -> None:
    """Write both sides, or neither where one would replace other ids."""
    splits = {f"{name}_{side}" if name else side: ids for side, ids in zip(("train", "test"), sides, strict=True)}
    for split, ids in splits.items():
        if not re.fullmatch(r"[\w.-]+", split) or split[0] == ".":
            raise InputError(f"--name {name}: must be letters, digits, _, - and .")
        for part in corpus.parts:
            held = part.path / "splits" / f"{split}.txt"
            if held.is_file() and not overwrite and read_ids(held) != known_ids(part, ids):
                remedy = "give another --name, or --overwrite to replace it"
                raise InputError(f"--name: {part.path} has a split {split} of other ids; {remedy}")
    for split, ids in splits.items():
        for part in corpus.parts:
            if kept := known_ids(part, ids):
                write_split(part.path, split, kept)
            else:  # another of the corpora has them all
                (part.path / "splits" / f"{split}.txt").unlink(missing_ok=True)
    _say_overlap(corpus, {split: corpus.rows(split) for split in splits})


def _say_overlap(corpus: Corpus, splits: Mapping[str, Rows]) -> None:
    held = extents(corpus, splits)
    for name, extent in held.items():
        typer.echo(f"{name}: {describe(extent)}")
    for (one, other), shared in overlaps(corpus, splits).items():
        typer.echo(f"{one} and {other} share {_shared(shared, held[other])} of {other}")


def describe(extent: Extent) -> str:
    """A split's extent in words."""
    hours = f"{extent.seconds / 3600:.2f} h"
    return f"{extent.utterances} utterances, {hours}, {extent.speakers} speakers, {extent.chapters} chapters"


def _shared(shared: Overlap, of: Extent) -> str:
    return (
        f"{shared.utterances} of {of.utterances} utterances, {shared.speakers} of {of.speakers} speakers, "
        f"{shared.chapters} of {of.chapters} chapters"
    )


def _list(corpus: Corpus, pairs: bool) -> None:
    """All splits, one a line, or what any two share as a table."""
    splits, broken = read_splits(corpus)
    for reason in broken.values():
        typer.echo(reason)
    if not splits:
        typer.echo(f"{corpus.path} has no splits yet; draw some with --by, or take them in with --cpc TRAIN TEST")
    elif not pairs:
        for name, extent in extents(corpus, splits).items():
            typer.echo(f"{name}: {describe(extent)}")
    else:
        _table(corpus, splits)


def _table(corpus: Corpus, splits: Mapping[str, Rows]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="what two splits share, and of how many of the second", title_justify="left")
    for column in ("first", "second"):
        table.add_column(column)
    for column in ("utterances", "speakers", "chapters"):
        table.add_column(column, justify="right")
    held = extents(corpus, splits)
    shares = overlaps(corpus, splits)
    for (one, other), shared in ((pair, shared) for pair, shared in shares.items() if any(shared)):
        cells = (
            f"{part:,} of {whole:,}" for part, whole in zip(shared, (held[other][i] for i in (0, 2, 3)), strict=True)
        )
        table.add_row(one, other, *cells)
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table)
    typer.echo(f"{len(shares) - table.row_count} of {len(shares)} pairs share nothing")


def take_splits(corpus: Corpus, folder: Path) -> None:
    """Take in every id list of a folder, without the ids that the corpus does not have, and say so."""
    typer.echo(f"splits from {folder} (disable with --splits none):")
    for file in sorted(folder.glob("*.txt")):
        ids = _read(file)
        kept = known_ids(corpus, ids)
        unknown = f", {len(ids) - len(kept)} unknown ids skipped" if len(kept) < len(ids) else ""
        typer.echo(f"  {file.stem}: {len(kept)} ids{unknown}{'' if kept else '; not taken'}")
        if kept:
            write_split(corpus.path, file.stem, kept)


if __name__ == "__main__":
    run(app)
