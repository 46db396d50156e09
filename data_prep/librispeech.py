"""LibriSpeech and Mini LibriSpeech from nothing to packed, labelled corpora: fetch, verify, unpack, pack, label.

cpc data librispeech SUBSET... --out data/ [--from DIR | --source URL_OR_DIR] [--labels align|none|FILE]
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from cpc.audio.decode import walk_audio
from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.data.pack import Listing, common_folder, listed, pack, parse_shard, take_shard
from cpc.io import write_json

from .console import run
from .download import (
    LIBRISPEECH,
    Archive,
    Catalogue,
    SpaceNeeded,
    check_space,
    fetch_all,
    find_archive,
    read_catalogue,
)
from .labels import take_cpc
from .metadata import describe
from .unpack import TOP, unpack

RECORD = "librispeech.json"  # beside corpus.json: which part of which subset it is

app = typer.Typer(add_completion=False, rich_markup_mode="markdown")

Subsets = Annotated[list[str], typer.Argument(help=f"Any of {', '.join(LIBRISPEECH.archives)}.", metavar="SUBSET...")]
Out = Annotated[Path, typer.Option(help="Folder for archives/, LibriSpeech/ and one packed corpus a subset.")]
From = Annotated[
    Path | None, typer.Option("--from", help="LibriSpeech on disk: its folder, the one above, or a subset's.")
]
Place = Annotated[str | None, typer.Option(help="A mirror's address, or a folder that holds the archives.")]
Labels = Annotated[str, typer.Option(help="align (from the transcripts), none, or the CPC paper's label file.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Packed and aligned at a time. Default: one a core.")]
Shard = Annotated[str | None, typer.Option(help="I/N: pack and label only the I-th of N parts, for N machines.")]
Keep = Annotated[bool, typer.Option(help="Whether downloaded archives stay once they are unpacked.")]
Own = Annotated[Path | None, typer.Option(help="JSON with archives, checksums and mirrors of your own.")]


@dataclass(frozen=True)
class PrepareJob:
    """What to prepare, where and how. `audio` is what --from names, `store` a folder of archives."""

    archives: Mapping[str, Archive]  # by subset
    out: Path
    mirrors: Sequence[str] = ()
    audio: Path | None = None
    store: Path | None = None
    labels: str = "align"
    workers: int | None = None
    shard: tuple[int, int] | None = None
    keep: bool = True
    progress: bool = True

    def is_packed(self, subset: str) -> bool:
        return (self.out / subset / "corpus.json").is_file()

    def is_unpacked(self, subset: str) -> bool:
        return self.audio is not None or (self.out / TOP / subset).is_dir()

    def missing(self) -> dict[str, Archive]:
        """The archives that are needed: of subsets that are neither packed nor unpacked."""
        return {
            subset: archive
            for subset, archive in self.archives.items()
            if not self.is_packed(subset) and not self.is_unpacked(subset)
        }


@app.command()
def main(
    subsets: Subsets,
    *,
    out: Out = Path("data"),
    from_: From = None,
    source: Place = None,
    labels: Labels = "align",
    workers: Workers = None,
    shard: Shard = None,
    keep_archives: Keep = True,
    catalogue: Own = None,
) -> None:
    """Fetch subsets of LibriSpeech, verify, unpack, pack and label them: OUT/SUBSET is ready for training.

    Only what is missing is done. Killed at any moment, the same command continues.
    """
    known = read_catalogue(catalogue) if catalogue else LIBRISPEECH
    chosen = known.choose(subsets)
    if from_ is not None and source is not None:
        raise InputError(f"source={source}: has no use beside --from {from_}, which is unpacked already; give one")
    if labels not in ("align", "none") and not Path(labels).is_file():
        raise InputError(f"labels={labels}: must be align, none, or the file of the CPC paper's labels")
    store, mirrors = _source(source, known)
    part = parse_shard(shard) if shard else None
    prepare(PrepareJob(chosen, out, mirrors, from_, store, labels, workers, part, keep_archives))


def _source(source: str | None, known: Catalogue) -> tuple[Path | None, Sequence[str]]:
    """A folder of archives, or the addresses of mirrors."""
    if source is None:
        return None, known.mirrors
    if source.startswith(("http://", "https://")):
        return None, (source,)
    if not Path(source).is_dir():
        raise InputError(f"source={source}: no such folder; give a folder of archives or an address, http://…")
    return Path(source), ()


def prepare(job: PrepareJob) -> None:
    """Do what is missing of a job. A subset that fails does not stop the others; InputError at the end says why."""
    folders = {subset: _folder(subset, job) for subset in job.archives}
    check_space(job.out, [_need(subset, job) for subset in job.archives], job.keep)
    try:
        failed = _bring(job)
    except OSError as error:
        remedy = "fix that and run the same command again: what is there stays"
        raise InputError(f"out={job.out}: {error.filename} cannot be written ({error.strerror}); {remedy}") from error
    for subset in [subset for subset in job.archives if subset not in failed]:
        try:
            _label(_pack(subset, folders[subset], job), job)
        except InputError as error:
            failed[subset] = error
    if failed:
        done = ", ".join(subset for subset in job.archives if subset not in failed)
        reasons = "; ".join(str(error) for error in failed.values())
        raise InputError(f"{reasons}{f' (prepared: {done})' if done else ''}")


def _folder(subset: str, job: PrepareJob) -> Path:
    """The folder of a subset's audio. Raises InputError if --from does not hold it."""
    if job.audio is None:
        return job.out / TOP / subset
    places = [job.audio / subset, job.audio / TOP / subset]
    if job.audio.absolute().name == subset:
        places.insert(0, job.audio)
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        rule = f"holds neither {subset}/ nor {TOP}/{subset}/"
        raise InputError(f"from={job.audio}: {rule}; name the folder {TOP}, the one above it, or that of one subset")
    return found


def _need(subset: str, job: PrepareJob) -> SpaceNeeded:
    """Bytes that are still to be written for a subset."""
    archive = job.archives[subset]
    packed = 0 if job.is_packed(subset) else archive.packed // (job.shard[1] if job.shard else 1)
    if subset not in job.missing():
        return SpaceNeeded(packed=packed)
    if job.store is not None:
        return SpaceNeeded(0, archive.unpacked, packed)
    files = (job.out / "archives" / name for name in (archive.name, f"{archive.name}.part"))
    held = min(sum(file.stat().st_size for file in files if file.is_file()), archive.size)
    return SpaceNeeded(archive.size - held, archive.unpacked, packed, held)


def _bring(job: PrepareJob) -> dict[str, InputError]:
    """Fetch and unpack what is missing; what failed, by subset."""
    _clear(job)  # a kill may have come before it
    missing = job.missing()
    if not missing:
        return {}
    files: dict[str, Path | InputError] = {}
    if job.store is None:
        files = fetch_all(missing, job.mirrors, job.out / "archives", progress=job.progress)
    failed: dict[str, InputError] = {}
    for subset, archive in missing.items():
        try:
            file = files[subset] if job.store is None else find_archive(archive, job.store)
            if isinstance(file, InputError):
                raise file
            typer.echo(f"{subset}: {archive.name} verified, {decimal(archive.size)}")
            unpack(file, subset, job.out / TOP, progress=job.progress)
            _clear(job)
        except InputError as error:
            failed[subset] = error
    return failed


def _clear(job: PrepareJob) -> None:
    """Remove the downloaded archives of what is unpacked, unless they are to be kept."""
    for subset, archive in job.archives.items():
        if not job.keep and (job.out / TOP / subset).is_dir():
            (job.out / "archives" / archive.name).unlink(missing_ok=True)


def _pack(subset: str, folder: Path, job: PrepareJob) -> Corpus:
    """The packed corpus OUT/SUBSET: made, gone on with, or found."""
    out, part = job.out / subset, list(job.shard or (1, 1))
    record = {"subset": subset, "shard": part}
    if job.is_packed(subset) and not folder.is_dir():
        _must_be(out, record)
    else:
        if not job.is_packed(subset):
            typer.echo(f"{subset}: audio in {folder}")
        sources = _sources(subset, folder, job)
        start = time.monotonic()
        part_of = take_shard(sources, *job.shard) if job.shard else sources
        report = pack(part_of, out, root=common_folder(sources), workers=job.workers, progress=job.progress)
        took = time.monotonic() - start
        how = f"packed in {took:.1f} s ({report.seconds / took:,.0f} × real time)" if report.fresh else "packed already"
        typer.echo(f"{subset}: {report.packed} utterances, {report.seconds / 3600:.2f} h, {how}")
        if report.skipped:
            typer.echo(f"{subset}: skipped {report.skipped} files that give no usable audio: see {out / 'skipped.tsv'}")
        if not report.packed:
            raise InputError(f"{folder}: none of its {report.skipped} files could be decoded; see {out}/skipped.tsv")
        if report.fresh or not (out / RECORD).is_file():
            write_json(out / RECORD, record)
    return Corpus.open(out)


def _must_be(out: Path, record: Mapping[str, object]) -> None:
    """Raises InputError unless the packed corpus, whose audio is gone, was made from the same part of the same."""
    held = json.loads((out / RECORD).read_text(encoding="utf-8")) if (out / RECORD).is_file() else None
    if held != record:
        raise InputError(f"out={out}: holds another packed corpus ({held or 'not LibriSpeech'}); name another folder")
    typer.echo(f"{record['subset']}: packed already")


def _sources(subset: str, folder: Path, job: PrepareJob) -> Listing:
    sources = listed(describe(walk_audio(folder), folder))
    expected = job.archives[subset].utterances
    if expected and len(sources) != expected:
        typer.echo(f"note: {folder} holds {len(sources)} utterances, the published {subset} has {expected}")
    if not any(source.sex for source in sources):
        typer.echo(f"note: no SPEAKERS.TXT in {folder} or beside it: sexes stay unknown")
    return sources


def _label(corpus: Corpus, job: PrepareJob) -> None:
    """Phone labels: taken from the paper's file, kept if they are there, or made by forced alignment."""
    there = corpus.path / "labels" / "phones.json"
    if job.labels == "none":
        return
    if job.labels != "align":
        take_cpc(corpus, Path(job.labels), partial=job.shard is not None)
    elif there.is_file():
        source = json.loads(there.read_text(encoding="utf-8")).get("source", "")
        typer.echo(f"{corpus.name}: phone labels are there already ({source})")
    else:
        from .align import align

        for line in align(corpus, workers=job.workers, progress=job.progress).lines():
            typer.echo(f"{corpus.name}: {line}")


if __name__ == "__main__":
    run(app)
