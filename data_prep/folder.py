"""Pack a folder of audio (any format of libsndfile, any layout) into a corpus, with what lies beside it.

cpc data folder AUDIO_FOLDER --out OUT [--speaker-from parent|regex|table] [--table TSV] [--longest 60]
    [--trim SECONDS] [--strict] [--shard I/N] [--splits DIR|none] [--phones FILE|none] [--engine ray]
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cpc.audio.decode import walk_audio
from cpc.audio.location import is_remote, locate
from cpc.cli.arguments import Address, Cpus, EngineName
from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.data.engine import Engine
from cpc.data.pack import Listing, common_folder, listed, pack, parse_shard, take_shard
from cpc.data.shards import Source
from cpc.io import write_json
from cpc.scale.ray import engine_named, load_ray

from .console import run, say_packed
from .cutting import CUTS, Rules, cut_files
from .labels import LABELS, take_phones
from .metadata import Join, compile_pattern, describe, name_by_pattern, parent_name, read_table
from .splits import take_splits

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")


class SpeakerFrom(StrEnum):
    """Where the speakers' names come from."""

    parent = "parent"
    regex = "regex"
    table = "table"


Audio = Annotated[Path, typer.Argument(help="Folder of audio files, or one file; also a URL.", metavar="AUDIO_FOLDER")]
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
Strict = Annotated[
    bool,
    typer.Option("--strict", help="Skip also files that lack at most 50 ms of the length that their header says."),
]
Shard = Annotated[
    str | None,
    typer.Option(
        help="I/N: pack only the I-th of N equal parts, each into an OUT of its own; data.corpus takes a list of them."
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
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Files or shards worked on at a time; with --engine ray workers. Default: one a core."),
]


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
    strict: Strict = False,
    shard: Shard = None,
    splits: Splits = None,
    phones: Phones = None,
    first_centre: Centre = 200,
    workers: Workers = None,
    engine: EngineName = "local",
    address: Address = None,
    cpus: Cpus = None,
) -> None:
    """Pack a folder of FLAC, WAV, Ogg, Opus, MP3 … into a corpus that is fast to train on.

    Any rate and any number of channels: channels are averaged, the rate becomes 16 kHz. LibriSpeech's layout gives
    speakers, chapters, transcripts and sexes; in any other, the parent folder is the speaker. The id of an utterance
    is its path with - for /.

    Files longer than --longest are cut at pauses, without being loaded whole; the parts are called
    ID-ONSET-OFFSET (hundredths of seconds) and OUT/cuts.jsonl lists them. Files that give no audio, and parts that
    a damaged file lacks, are listed with their reasons in OUT/skipped.tsv. Files that are taken though the length in
    their header is wrong (left open by a writer to a pipe, or up to 50 ms too long) are listed in OUT/notes.tsv.

    AUDIO_FOLDER may be a URL (s3://, gs://, https:// with a page that lists files …): what fsspec reads. Each file then
    travels twice, once to see how long it is; with --no-cut once.

    Speakers from names such as day1/s07_take2.wav: --speaker-regex '(?P&lt;speaker&gt;s[0-9]+)_'

    With --engine ray the workers of a cluster read, cut and pack; all of them must see AUDIO_FOLDER and OUT.

    Killed at any moment, the same command continues; OUT depends on the files and these options alone.
    """
    if engine == "ray":
        load_ray()
    start = time.monotonic()
    audio, target = locate(audio), _target(place, out)
    rules = Rules(longest, trim, strict)
    if trim is not None and not cut:
        raise InputError("trim: leaves silence out by cutting; drop --trim or --no-cut")
    part = parse_shard(shard) if shard else None
    root = audio if audio.is_dir() else audio.parent
    everything = sources = _sources(audio, table, speaker_from, speaker_regex)
    if part:
        sources = take_shard(everything, *part)
        typer.echo(f"shard {shard}: {len(sources)} of {len(everything)} files")
    with engine_named(engine, address, workers if engine == "ray" else None, cpus) as chosen:
        if cut:
            sources = _cut(sources, root, target, rules, workers, chosen)
        root_of_all = common_folder(everything)
        report = pack(sources, target, root=root_of_all, workers=workers, strict=strict, engine=chosen)
    say_packed(report, target, start)
    write_json(target / "origin.json", {"audio": str(root.resolve())})  # where labels beside the audio are found later
    _take_labels(Corpus.open(target), audio, table, splits, phones, first_centre)


def _target(place: Path | None, out: Path | None) -> Path:
    if place is not None and out is not None and place != out:
        raise InputError(f"out={out}: {place} is given too; name one folder")
    if found := out or place:
        return found
    raise InputError("out: not given; name the folder of the corpus, for example --out data/mine")


@dataclass
class _SourceCounter:
    """What is said of sources, counted while they stream past."""

    files: int = 0  # different ones, each with its segments in a row
    texts: int = 0
    segments: int = 0
    cut: int = 0  # files with segments
    first: Source | None = None
    speakers: set[str] = field(default_factory=set)

    def count(self, sources: Iterable[Source]) -> Iterator[Source]:
        path = None
        for source in sources:
            self.first = self.first or source
            self.files += source.path != path
            self.cut += source.path != path and source.is_segment
            self.segments += source.is_segment
            self.texts += bool(source.text)
            self.speakers.add(source.speaker)
            path = source.path
            yield source


def _sources(audio: Path, table: Path | None, wanted: SpeakerFrom | None, regex: str | None) -> Listing:
    """What is known about each file, sorted by id on disk, and lines about it."""
    root = audio if audio.is_dir() else audio.parent
    sources: Iterable[Source] = describe(walk_audio(audio), root)
    joined = _table(table, audio, wanted)
    if joined is not None:
        sources = joined(sources)
    tally = _SourceCounter()
    listing = listed(tally.count(_speakers(sources, root, wanted, regex)))
    typer.echo(f"found {tally.files} audio files in {audio}")
    if joined is not None:
        rows = f"{len(joined.table)} rows, {joined.table.unused} of them without a file"
        typer.echo(f"table {table}: {rows}; {joined.without} files without a row")
    if first := tally.first:
        example = f"for example {first.path.relative_to(root).as_posix()}: {first.speaker}"
        typer.echo(f"{len(tally.speakers)} speakers, {example}")
    return listing


def _table(table: Path | None, audio: Path, wanted: SpeakerFrom | None) -> Join | None:
    must = wanted == SpeakerFrom.table
    if table is None:
        if must:
            raise InputError("speaker-from=table: needs --table TSV with the columns id (or path) and speaker")
        return None
    folder = table.absolute().parent
    return Join(read_table(table, [folder.parent, folder, audio]), must)


def _speakers(sources: Iterable[Source], root: Path, wanted: SpeakerFrom | None, regex: str | None) -> Iterable[Source]:
    if regex is not None and wanted not in (None, SpeakerFrom.regex):
        raise InputError(f"speaker-regex={regex}: speakers come from {wanted}; drop it, or say --speaker-from regex")
    if regex is None and wanted == SpeakerFrom.regex:
        raise InputError(
            "speaker-from=regex: needs --speaker-regex, for example --speaker-regex '(?P<speaker>s[0-9]+)_'"
        )
    if regex is not None:
        return name_by_pattern(sources, compile_pattern(regex), root)
    if wanted == SpeakerFrom.parent:
        return (replace(source, speaker=parent_name(source.path)) for source in sources)
    return sources


def _cut(sources: Listing, root: Path, out: Path, rules: Rules, workers: int | None, engine: Engine | None) -> Listing:
    """The sources after cutting, and a line on what became of those that were cut."""
    before, after = _SourceCounter(), _SourceCounter()
    parts = listed(after.count(cut_files(sources, root, out, rules, workers=workers, engine=engine)))
    for _ in before.count(sources):
        pass
    if after.segments:
        what = f"{after.cut} files give {after.segments} utterances"
        typer.echo(f"{what} of up to {rules.longest:g} s: see {out / CUTS}")
    if silent := before.files - after.files:
        typer.echo(f"{silent} files hold nothing but silence and are skipped: see {out / CUTS}")
    if lost := before.texts - after.texts:
        typer.echo(f"{lost} transcripts belong to files that were cut and are skipped")
    return parts


def _take_labels(
    corpus: Corpus, audio: Path, table: Path | None, splits: str | None, phones: str | None, first_centre: int
) -> None:
    """Take in the splits and phone labels that the user named or that lie beside the audio or the table."""
    near = [table.absolute().parent, table.absolute().parent.parent] if table else []
    near += [] if is_remote(audio) else [audio, audio.absolute().parent]
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
