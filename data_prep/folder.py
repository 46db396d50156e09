"""Pack a folder of audio (any format of libsndfile, any layout) into a corpus, with what lies beside it.

python -m data_prep.folder AUDIO_FOLDER --out OUT [--speaker-from parent|regex|table] [--table TSV] [--longest 60]
    [--trim SECONDS] [--shard I/N] [--splits DIR|none] [--phones FILE|none]
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cpc.audio import find_audio
from cpc.config import InputError
from cpc.corpus import Corpus, Source, pack
from cpc.corpus.source import take_shard
from cpc.files import write_json
from data_prep.console import parse_shard, run, say_packed
from data_prep.cutting import CUTS, Rules, cut_files
from data_prep.labels import LABELS, take_phones
from data_prep.metadata import compile_pattern, describe, join, name_by_pattern, parent_name, read_table
from data_prep.splits import take_splits

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


class SpeakerFrom(StrEnum):
    """Where the speakers' names come from."""

    parent = "parent"
    regex = "regex"
    table = "table"


Audio = Annotated[Path, typer.Argument(help="Folder of audio files, or one file.", metavar="AUDIO_FOLDER")]
Place = Annotated[Path | None, typer.Argument(help="The same as --out.", metavar="[OUT]", show_default=False)]
Out = Annotated[Path | None, typer.Option(help="Folder of the packed corpus, such as data/mine.", show_default=False)]
Table = Annotated[
    Path | None,
    typer.Option(help="TSV whose first line names id and any of speaker, chapter, sex, subset, text, path."),
]
Speaker = Annotated[
    SpeakerFrom | None,
    typer.Option(
        help="Where speakers come from: the name of the folder that a file lies in, --speaker-regex, or --table (every"
        " file needs a row). Default: the table where it names one, else LibriSpeech's layout, else parent."
    ),
]
Regex = Annotated[
    str | None,
    typer.Option(
        help="Regular expression looked for in each path below AUDIO_FOLDER, with a group (?P\\<speaker\\>...); others"
        " may be chapter, sex and subset. A file in which it finds no speaker is an error."
    ),
]
Cut = Annotated[bool, typer.Option(help="Cut long files at pauses, or keep every file whole.")]
Longest = Annotated[float, typer.Option(help="Files that last longer (seconds) are cut into utterances up to this.")]
Trim = Annotated[
    float | None,
    typer.Option(help="Leave out silences longer than this (seconds), at the ends and between utterances."),
]
Shard = Annotated[
    str | None,
    typer.Option(
        help="I/N: pack only the I-th of N equal parts, each into an OUT of its own; data_prep.merge joins them."
    ),
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
Workers = Annotated[int | None, typer.Option(min=1, help="Files or shards worked on at a time. Default: one a core.")]


@app.command()
def main(
    audio: Audio,
    place: Place = None,
    *,
    out: Out = None,
    speaker_from: Speaker = None,
    speaker_regex: Regex = None,
    table: Table = None,
    cut: Cut = True,
    longest: Longest = 60.0,
    trim: Trim = None,
    shard: Shard = None,
    splits: Splits = None,
    phones: Phones = None,
    first_centre: Centre = 200,
    workers: Workers = None,
) -> None:
    """Pack a folder of FLAC, WAV, Ogg, Opus, MP3 … into a corpus that is fast to train on.

    Any rate and any number of channels: channels are averaged, the rate becomes 16 kHz. LibriSpeech's layout gives
    speakers, chapters, transcripts and sexes; in any other, the parent folder is the speaker. The id of an utterance
    is its path with - for /.

    Files longer than --longest are cut at pauses, without being loaded whole; the parts are called
    ID-ONSET-OFFSET (hundredths of seconds) and OUT/cuts.jsonl lists them. Files that give no audio, and parts that
    a damaged file lacks, are listed with their reasons in OUT/skipped.tsv.

    Speakers from names such as day1/s07_take2.wav: --speaker-regex '(?P&lt;speaker&gt;s[0-9]+)_'

    Killed at any moment, the same command continues; OUT depends on the files and these options alone.
    """
    start = time.monotonic()
    target = _target(place, out)
    rules = Rules(longest, trim)
    if trim is not None and not cut:
        raise InputError("trim: leaves silence out by cutting; drop --trim or --no-cut")
    part = parse_shard(shard) if shard else None
    root = audio if audio.is_dir() else audio.parent
    sources = _speakers(_sources(audio, table, speaker_from), root, speaker_from, speaker_regex)
    if part:
        everything = len(sources)
        sources = take_shard(sources, *part)
        typer.echo(f"shard {shard}: {len(sources)} of {everything} files")
    if cut:
        sources = _cut(sources, root, target, rules, workers)
    say_packed(pack(sources, target, workers=workers), target, start)
    write_json(target / "origin.json", {"audio": str(root.resolve())})  # where labels beside the audio are found later
    _take_labels(Corpus.open(target), audio, table, splits, phones, first_centre)


def _target(place: Path | None, out: Path | None) -> Path:
    if place is not None and out is not None and place != out:
        raise InputError(f"out={out}: {place} is given too; name one folder")
    if found := out or place:
        return found
    raise InputError("out: not given; name the folder of the corpus, for example --out data/mine")


def _sources(audio: Path, table: Path | None, speaker_from: SpeakerFrom | None) -> list[Source]:
    sources = list(describe(find_audio(audio), audio if audio.is_dir() else audio.parent))
    typer.echo(f"found {len(sources)} audio files in {audio}")
    if table is None:
        if speaker_from == SpeakerFrom.table:
            raise InputError("speaker-from=table: needs --table TSV with the columns id (or path) and speaker")
        return sources
    rows = read_table(table)
    folder = table.absolute().parent
    must = speaker_from == SpeakerFrom.table
    sources, unused, without = join(sources, rows, [folder.parent, folder, audio], must)
    typer.echo(f"table {table}: {len(rows)} rows, {unused} of them without a file; {without} files without a row")
    return sources


def _speakers(sources: list[Source], root: Path, wanted: SpeakerFrom | None, regex: str | None) -> list[Source]:
    if regex is not None and wanted not in (None, SpeakerFrom.regex):
        raise InputError(f"speaker-regex={regex}: speakers come from {wanted}; drop it, or say --speaker-from regex")
    if regex is None and wanted == SpeakerFrom.regex:
        raise InputError(
            "speaker-from=regex: needs --speaker-regex, for example --speaker-regex '(?P<speaker>s[0-9]+)_'"
        )
    if regex is not None:
        sources = name_by_pattern(sources, compile_pattern(regex), root)
    elif wanted == SpeakerFrom.parent:
        sources = [replace(source, speaker=parent_name(source.path)) for source in sources]
    first = sources[0]
    example = f"for example {first.path.relative_to(root).as_posix()}: {first.speaker}"
    typer.echo(f"{len({source.speaker for source in sources})} speakers, {example}")
    return sources


def _cut(sources: list[Source], root: Path, out: Path, rules: Rules, workers: int | None) -> list[Source]:
    """The sources after cutting, and a line on what became of those that were cut."""
    parts = cut_files(sources, root, out, rules, workers=workers)
    segments = [part for part in parts if part.is_segment]
    if segments:
        files = len({part.path for part in segments})
        typer.echo(f"{files} files give {len(segments)} utterances of up to {rules.longest:g} s: see {out / CUTS}")
    if silent := len({source.path for source in sources} - {part.path for part in parts}):
        typer.echo(f"{silent} files hold nothing but silence and are left out: see {out / CUTS}")
    if lost := _transcripts(sources) - _transcripts(parts):
        typer.echo(f"{lost} transcripts belong to files that were cut and are left out")
    return parts


def _transcripts(sources: Sequence[Source]) -> int:
    return sum(bool(source.text) for source in sources)


def _take_labels(
    corpus: Corpus, audio: Path, table: Path | None, splits: str | None, phones: str | None, first_centre: int
) -> None:
    """Take in the splits and phone labels that the user named or that lie beside the audio or the table."""
    near = [table.absolute().parent, table.absolute().parent.parent] if table else []
    near += [audio, audio.absolute().parent]
    if folder := _choose("splits", splits, [place / "splits" for place in near]):
        take_splits(corpus, folder)
    if file := _choose("phones", phones, [place / (LABELS + end) for place in near for end in ("", ".gz")]):
        take_phones(corpus, file, first_centre)


def _choose(option: str, given: str | None, places: list[Path]) -> Path | None:
    """What the user named (none for nothing), else the first of `places` that exists."""
    if given == "none":
        return None
    if given is None:
        return next((place for place in places if place.exists()), None)
    if not Path(given).exists():
        raise InputError(f"{option}={given}: no such file or folder; name another, or none")
    return Path(given)


if __name__ == "__main__":
    run(app)
