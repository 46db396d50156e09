"""Pack what other tools list: Kaldi data folders, Lhotse manifests, Common Voice.

cpc data kaldi DIR ... --out OUT
cpc data lhotse RECORDINGS.jsonl[.gz] SUPERVISIONS.jsonl[.gz] --out OUT
cpc data commonvoice FOLDER --out OUT [--tsv train --tsv dev --tsv test]

Speakers, texts, sexes and splits come with them. Audio that a command would make (a pipe in wav.scp) is refused:
nothing in a manifest is ever run.
"""

from __future__ import annotations

import csv
import gzip
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cpc.audio.decode import probe
from cpc.audio.integrity import Undecodable
from cpc.audio.location import Remote, locate
from cpc.config import InputError
from cpc.data.pack import pack
from cpc.data.shards import Source
from cpc.data.splits import write_split

from .console import run, say_packed
from .metadata import one_line

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

Out = Annotated[Path, typer.Option(help="Folder of the packed corpus, such as data/mine.")]
Root = Annotated[
    Path | None,
    typer.Option(help="Folder that relative paths start from. Default: the working folder, then the list's."),
]
Workers = Annotated[int | None, typer.Option(min=1, help="Shards worked on at a time. Default: one a core.")]
Strict = Annotated[bool, typer.Option("--strict", help="Skip files that lack any of what their header says.")]
Splits = dict[str, list[str]]


@app.command()
def kaldi(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Kaldi data folders; each becomes a split.")],
    *,
    out: Out,
    root: Root = None,
    workers: Workers = None,
    strict: Strict = False,
) -> None:
    """Pack Kaldi data folders: wav.scp, and where they are there segments, utt2spk, text and spk2gender."""
    sources: list[Source] = []
    splits: Splits = {}
    for folder in folders:
        own = list(read_kaldi(folder, root))
        sources += own
        splits.setdefault(folder.resolve().name, []).extend(source.id for source in own)
    pack_listed(sources, splits, out, workers, strict)


@app.command()
def lhotse(
    recordings: Annotated[Path, typer.Argument(metavar="RECORDINGS", help="recordings.jsonl or .jsonl.gz")],
    supervisions: Annotated[Path, typer.Argument(metavar="SUPERVISIONS", help="supervisions.jsonl or .jsonl.gz")],
    *,
    out: Out,
    root: Root = None,
    workers: Workers = None,
    strict: Strict = False,
) -> None:
    """Pack Lhotse manifests: an utterance for each supervision, with its speaker, gender and text."""
    pack_listed(list(read_lhotse(recordings, supervisions, root)), {}, out, workers, strict)


@app.command()
def commonvoice(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A language of Common Voice: clips/ and *.tsv.")],
    *,
    out: Out,
    tsv: Annotated[
        list[str] | None, typer.Option(help="Lists to pack; may be repeated. Default: train, dev, test.")
    ] = None,
    workers: Workers = None,
    strict: Strict = False,
) -> None:
    """Pack Common Voice: client_id is the speaker, and every list becomes a split."""
    sources, splits = read_commonvoice(folder, tsv or ["train", "dev", "test"])
    pack_listed(sources, splits, out, workers, strict)


def pack_listed(sources: Sequence[Source], splits: Splits, out: Path, workers: int | None, strict: bool) -> None:
    """Pack `sources` and write the splits, saying what came of it. Raises InputError if there is nothing to pack."""
    start = time.monotonic()
    typer.echo(f"{len(sources)} utterances, {len({source.speaker for source in sources})} speakers")
    report = pack(sources, out, workers=workers, strict=strict)
    say_packed(report, out, start)
    from cpc.data.corpus import Corpus

    packed = set(Corpus.open(out).ids)
    for name, ids in splits.items():
        kept = [id for id in ids if id in packed]
        if kept:
            write_split(out, name, kept)
        typer.echo(f"split {name}: {len(kept)} of {len(ids)} utterances")


def read_kaldi(folder: Path, root: Path | None = None) -> Iterator[Source]:
    """The utterances of a Kaldi data folder.

    Args:
        folder: it holds wav.scp (`REC PATH`), and perhaps segments (`UTT REC START END`, seconds), utt2spk, text,
            spk2gender or utt2gender.
        root: where relative paths start; None for the working folder, then `folder`.

    Raises:
        InputError: no wav.scp, a pipe or an archive in it, or lines that do not fit together.
    """
    files = dict(_lines(folder / "wav.scp", "a Kaldi data folder has one"))
    speakers, texts, sexes = (_optional(folder / name) for name in ("utt2spk", "text", "spk2gender"))
    own_sexes = _optional(folder / "utt2gender")  # as Lhotse writes it
    for recording, given in files.items():
        where = f"{folder / 'wav.scp'}: {recording}"
        if given.endswith("|") or given.startswith("|"):
            raise InputError(f"{where}: is a command, and none is run; write the audio to a file and name that")
        if ".ark:" in given:
            raise InputError(f"{where}: is in an archive ({given}); write it to a file and name that")

    def source(id: str, path: Path, start: int = 0, stop: int | None = None) -> Source:
        speaker = speakers.get(id, "")
        sex = (own_sexes.get(id) or sexes.get(speaker, ""))[:1].upper()
        return Source(id, path, one_line(speaker), sex=sex, text=texts.get(id, ""), start=start, stop=stop)

    if not (folder / "segments").is_file():
        for recording, given in files.items():
            yield source(recording, find_listed(given, root, folder))
        return
    rates: dict[Path, int] = {}
    for id, rest in _lines(folder / "segments", ""):
        words = rest.split()
        where = f"{folder / 'segments'}: {id}"
        if len(words) != 3 or words[0] not in files:
            rule = f"{words[0]} is not in wav.scp" if len(words) == 3 else "a line is UTT REC START END"
            raise InputError(f"{where}: {rule}")
        path = find_listed(files[words[0]], root, folder)
        start, stop = (_seconds(word, where) for word in words[1:])
        yield source(id, path, *_samples(path, start, None if stop < 0 else stop, rates, where))


def read_lhotse(recordings: Path, supervisions: Path, root: Path | None = None) -> Iterator[Source]:
    """The utterances of Lhotse manifests.

    Raises:
        InputError: a manifest is missing or broken, a recording is no single file of one channel, or a supervision is
            of an unknown recording.
    """
    files: dict[str, str] = {}
    for where, record in _json_lines(recordings):
        found = record.get("sources") or []
        if len(found) != 1 or found[0].get("type") != "file" or len(found[0].get("channels", [0])) != 1:
            kinds = ", ".join(str(each.get("type")) for each in found) or "none"
            rule = f"must be one file of one channel (its sources: {kinds}); write each channel to a file of its own"
            raise InputError(f"{where}: {record.get('id')}: {rule}")
        files[str(record.get("id"))] = str(found[0]["source"])
    rates: dict[Path, int] = {}
    for where, record in _json_lines(supervisions):
        id, recording = str(record.get("id")), str(record.get("recording_id"))
        if recording not in files:
            raise InputError(f"{where}: {id}: its recording {recording} is not in {recordings}")
        path = find_listed(files[recording], root, recordings.parent)
        start, length = (_seconds(record.get(name, ""), f"{where}: {id}") for name in ("start", "duration"))
        first, stop = _samples(path, start, start + length, rates, f"{where}: {id}")
        yield Source(
            id, path, one_line(str(record.get("speaker") or "")), chapter=one_line(recording),
            sex=str(record.get("gender") or "")[:1].upper(), text=str(record.get("text") or ""), start=first, stop=stop,
        )  # fmt: skip


def read_commonvoice(folder: Path, lists: Sequence[str]) -> tuple[list[Source], Splits]:
    """The clips of some lists of Common Voice, each once, and the ids of each list.

    Raises:
        InputError: a list is missing or has no columns client_id, path and sentence.
    """
    sources: dict[str, Source] = {}
    splits: Splits = {}
    for name in lists:
        file = folder / f"{name}.tsv"
        if not file.is_file():
            known = ", ".join(sorted(path.stem for path in folder.glob("*.tsv"))) or "none"
            raise InputError(f"tsv={name}: {file} is not there (lists: {known})")
        with file.open(encoding="utf-8", newline="") as opened:
            reader = csv.DictReader(opened, delimiter="\t", quoting=csv.QUOTE_NONE, restval="")
            if missing := {"client_id", "path", "sentence"} - set(reader.fieldnames or ()):
                raise InputError(f"{file}: its first line names no column {', '.join(sorted(missing))}")
            for row in reader:
                clip = folder / "clips" / row["path"]
                sources[clip.stem] = Source(
                    clip.stem, clip, row["client_id"], sex=_sex(row.get("gender", "")), text=row["sentence"]
                )
                splits.setdefault(name, []).append(clip.stem)
    return list(sources.values()), splits


def _sex(gender: str) -> str:
    """male, male_masculine → M; female, female_feminine → F; anything else is not known."""
    return {"male": "M", "female": "F"}.get(gender.split("_", maxsplit=1)[0], "")


def _lines(file: Path, rule: str) -> Iterator[tuple[str, str]]:
    """First word and the rest of each line."""
    if not file.is_file():
        raise InputError(f"{file}: no such file" + (f"; {rule}" if rule else ""))
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{file}: is not UTF-8 text") from None
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            first, _, rest = line.strip().partition(" ")
            if not rest.strip() and file.name != "text":
                raise InputError(f"{file}, line {number}: holds one word only ({first})")
            yield first, rest.strip()


def _optional(file: Path) -> dict[str, str]:
    return dict(_lines(file, "")) if file.is_file() else {}


def _json_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each line stands, and the object that it holds."""
    if not file.is_file():
        raise InputError(f"{file}: no such file; give a manifest as .jsonl or .jsonl.gz")
    try:
        with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        raise InputError(f"{file}, line {number}: must be an object, not {type(record).__name__}")
                    yield f"{file}, line {number}", record
    except (ValueError, OSError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file}: cannot be read ({' '.join(str(error).split())})") from None


def find_listed(given: str, root: Path | None, folder: Path) -> Path:
    """The file that a list names; where it is not there, packing says so."""
    path = locate(given)
    if path.is_absolute() or isinstance(path, Remote):
        return path
    places = [root] if root else [Path(), folder]
    return next((place / path for place in places if (place / path).is_file()), places[-1] / path)


def _seconds(word: Any, where: str) -> float:
    try:
        return float(word)
    except (TypeError, ValueError):
        raise InputError(f"{where}: {word!r} is no time in seconds") from None


def _samples(
    path: Path, start: float, stop: float | None, rates: dict[Path, int], where: str
) -> tuple[int, int | None]:
    """Seconds as samples of a file, whose header is read once; of a file that cannot be read, as at 16 kHz."""
    if start < 0 or (stop is not None and stop <= start):
        raise InputError(
            f"{where}: from {start:g} to {stop:g} s: must be in order" if stop else f"{where}: starts below 0"
        )
    if path not in rates:
        try:
            rates[path] = probe(path).sample_rate
        except Undecodable:
            rates[path] = 16000
    rate = rates[path]
    return round(start * rate), None if stop is None else round(stop * rate)


if __name__ == "__main__":
    run(app)
