"""Pack Libri-Light, hours-long chapters with a .json beside each, as utterances cut by its voice activity.

cpc data librilight small medium --from /mnt/librilight --out data/ [--longest 60] [--trim 1] [--shard I/N]
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Annotated

import typer

from cpc.audio.decode import SAMPLE_RATE, probe, walk_audio
from cpc.audio.integrity import Undecodable
from cpc.config import InputError
from cpc.data.pack import Listing, common_folder, listed, pack, parse_shard, take_shard
from cpc.data.progress import show_progress, stream
from cpc.data.shards import Source, relative
from cpc.io import atomic

from .console import run, say_packed
from .cutting import Rules, segment_id
from .metadata import one_line

LEFT_OUT = "left_out.tsv"
BEYOND = 1.0  # seconds by which voice activity may outlast the audio: it is counted in frames of 80 ms, and rounded
Activity = list[tuple[float, float]]  # seconds

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

Subsets = Annotated[
    list[str], typer.Argument(metavar="SUBSET...", help="small, medium, large, or any folder of SPEAKER/BOOK/*.flac.")
]
From = Annotated[Path, typer.Option("--from", help="Folder that holds the subsets' folders (or is the one named).")]
Out = Annotated[Path, typer.Option(help="Each subset becomes the corpus OUT/librilight-SUBSET.")]
Longest = Annotated[float, typer.Option(help="Neighbouring voice activity is joined up to this many seconds.")]
Trim = Annotated[float, typer.Option(help="A pause longer than this (seconds) is skipped: no utterance spans it.")]
Shard = Annotated[
    str | None, typer.Option(help="I/N: pack only the I-th of N equal parts, each into an OUT of its own.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Files or shards worked on at a time. Default: one a core.")]


@app.command()
def main(
    subsets: Subsets,
    *,
    folder: From,
    out: Out,
    longest: Longest = 60.0,
    trim: Trim = 1.0,
    shard: Shard = None,
    workers: Workers = None,
) -> None:
    """Pack subsets of Libri-Light (Kahn et al. 2020, arXiv 1912.07875) that are on disk, unpacked.

    The .json beside each .flac gives the speaker and the voice activity. Neighbouring stretches of voice become one
    utterance of up to --longest seconds, with the pauses between them; a single longer stretch stays whole. The
    chapter is the book's folder; ids are SPEAKER-BOOK-FILE-ONSET-OFFSET in hundredths of seconds. Files without
    usable .json are listed in OUT/librilight-SUBSET/left_out.tsv with the reason.

    Killed at any moment, the same command continues.
    """
    part = parse_shard(shard) if shard else None
    rules = Rules(longest, trim)
    for name in subsets:
        _pack(_find(name, folder), out, rules, part, workers)


def _find(name: str, folder: Path) -> Path:
    """The folder of a subset."""
    places = [folder / name, *([folder] if folder.absolute().name == name else []), Path(name)]
    if found := next((place for place in places if place.is_dir()), None):
        return found
    raise InputError(f"subset={name}: {folder} has no such folder; unpack {name}.tar there, or name it with --from")


def _pack(root: Path, out: Path, rules: Rules, part: tuple[int, int] | None, workers: int | None) -> None:
    start = time.monotonic()
    name = root.absolute().name
    files = (
        Source(_id(file, root), file, "", chapter=one_line(file.parent.name), subset=name) for file in walk_audio(root)
    )
    everything = sources = listed(files)
    if part:
        sources = take_shard(everything, *part)
    target = out / f"librilight-{name}"
    with TemporaryFile() as lines:
        left_out = _SkippedIds(root, lines)
        segments = listed(cut_sources(sources, rules, left_out, workers=workers))
        typer.echo(f"{name}: {len(sources)} files, {len(segments)} utterances")
        if not segments:
            raise InputError(f"subset={name}: none of the {len(sources)} files has usable .json ({left_out.first}, …)")
        say_packed(pack(segments, target, root=common_folder(everything), workers=workers), target, start)
        left_out.write(target / LEFT_OUT)
    where = f" without usable .json: see {target / LEFT_OUT}" if left_out.count else ""
    typer.echo(f"skipped {left_out.count} files{where}")


class _SkippedIds:
    """The files without usable .json, with the reason; their lines lie in `lines` until there is a corpus."""

    def __init__(self, root: Path, lines: IO[bytes]) -> None:
        self.root, self.lines, self.count, self.first = root, lines, 0, ""

    def add(self, path: Path, reason: str) -> None:
        self.count += 1
        self.first = self.first or reason
        self.lines.write(f"{relative(path, self.root)}\t{reason}\n".encode())

    def write(self, target: Path) -> None:
        with atomic(target) as file:
            file.write(b"path\treason\n")
            self.lines.seek(0)
            shutil.copyfileobj(self.lines, file)


def _id(file: Path, root: Path) -> str:
    return one_line(file.relative_to(root).with_suffix("").as_posix().replace("/", "-"))


def cut_sources(
    sources: Listing, rules: Rules, left_out: _SkippedIds, *, workers: int | None = None, progress: bool = True
) -> Iterator[Source]:
    """Segments of files by their voice activity; the files without usable .json go to `left_out`.

    A file whose audio cannot be read stays whole, so that packing reports it.
    """
    with show_progress("reading voice activity", len(sources), SAMPLE_RATE, progress) as state:

        def cut(source: Source) -> tuple[Path, list[Source] | str]:
            state.tick()
            try:
                return source.path, _segments(source, rules)
            except InputError as error:
                return source.path, str(error)

        for path, found in stream(cut, sources, workers):
            if isinstance(found, str):
                left_out.add(path, found)
            else:
                yield from found


def _segments(source: Source, rules: Rules) -> list[Source]:
    speaker, activity = read_json(source.path.with_suffix(".json"))
    whole = replace(source, speaker=speaker)
    try:
        samples, rate, _ = probe(source.path)
    except Undecodable:
        return [whole]
    if samples and activity[-1][1] > samples / rate + BEYOND:
        ends = f"voice activity ends at {activity[-1][1]:.2f} s, the audio at {samples / rate:.2f} s"
        raise InputError(f"{ends}: they do not belong together")
    joined = [(round(on * rate), round(off * rate)) for on, off in join(activity, rules)]
    spans = [(start, min(stop, samples or stop)) for start, stop in joined]
    found = [
        replace(whole, id=segment_id(source.id, start, stop, rate), start=start, stop=stop)
        for start, stop in spans
        if start < stop
    ]
    if not found:
        raise InputError(".json has voice activity of no length")
    return found


def join(activity: Activity, rules: Rules) -> Activity:
    """Join neighbouring stretches of voice, pauses included, while they last up to `rules.longest` seconds together.

    Libri-Light's own cut_by_vad.py joins in the same order up to a target length, but drops every pause and so puts
    samples side by side that were seconds apart. Here an utterance is a piece of the recording as it was; only pauses
    longer than `rules.trim` are skipped, by ending the utterance. As there, one long stretch is never broken.
    """
    joined: Activity = []
    for on, off in activity:
        if joined and off - joined[-1][0] <= rules.longest and on - joined[-1][1] <= (rules.trim or 0):
            joined[-1] = (joined[-1][0], off)
        else:
            joined.append((on, off))
    return joined


def read_json(path: Path) -> tuple[str, Activity]:
    """The speaker and the voice activity of one file. Raises InputError that says what is wrong, without the path."""
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        speaker = one_line(str(info["speaker"]))
        activity = [(float(on), float(off)) for on, off in info["voice_activity"]]
    except FileNotFoundError:
        raise InputError("no .json beside it") from None
    except OSError as error:
        raise InputError(f".json cannot be read: {error.strerror}") from error
    except KeyError as error:
        raise InputError(f".json has no {error}") from error
    except (ValueError, TypeError) as error:
        raise InputError(f".json is broken: {error}") from error
    if not speaker or info["speaker"] is None:
        raise InputError(".json names no speaker")
    if not activity:
        raise InputError(".json has no voice activity")
    edges = [0.0, *(edge for pair in activity for edge in pair)]
    if not all(before <= after < float("inf") for before, after in pairwise(edges)):
        raise InputError(".json is broken: voice_activity must be [onset, offset] pairs in order of time")
    return speaker, activity


if __name__ == "__main__":
    run(app)
