"""Join packed corpora into one: the parts of a corpus that several machines packed, or corpora of one kind."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from cpc.config import InputError
from cpc.corpus import join, shards
from cpc.corpus.corpus import Corpus
from cpc.corpus.order import Order, check_files, find_order, write_manifest
from cpc.corpus.pack import claimed
from cpc.corpus.plan import taken, work_folder
from cpc.corpus.progress import show_progress
from cpc.files import atomic, write_json


class MergeReport(NamedTuple):
    """What is in the merged corpus; not `fresh` if all was there.

    `copied` of the `shards` were copied, the others are hard links; `splits` gives the ids of each split, `labels`
    the labelled utterances of each scheme, `without` the parts that a scheme says nothing about, and `left` what else
    lies in the parts and was left there.
    """

    utterances: int
    skipped: int
    seconds: float
    shards: int
    copied: int
    splits: dict[str, int]
    labels: dict[str, int]
    without: dict[str, list[Path]]
    left: list[Path]
    fresh: bool = True


@dataclass(frozen=True)
class _Job:
    """What to merge, in an order that does not depend on how it was asked for, and where."""

    parts: Sequence[Corpus]
    info: Sequence[dict[str, Any]]  # corpus.json of each part
    out: Path
    identity: str


def merge(parts: Sequence[Path], out: Path, *, link: bool = True, progress: bool = True) -> MergeReport:
    """Merge packed corpora of one sample rate into one at `out`, with splits, labels and lists of skipped files.

    Rows are sorted by id. Shards are hard links to those of the parts where `link` and the file system allow it,
    else copies: the parts stay whole, and either may be deleted. Splits of one name become one, sorted by id; a
    scheme of labels must have the same inventory and source in every part that has it. The order of `parts` does
    not matter, and neither does merging some of them first, for the manifest, the shards and the digest: it hashes
    the sorted digests of the corpora that were once packed. A killed merge, started again, ends with the same bytes.

    Raises InputError for parts that are missing, unfinished, given twice or do not go together, for ids that are
    in two parts, and for an `out` that holds something else or cannot be written. Nothing is written before all
    that is known to be right.
    """
    job = _plan(parts, Path(out))
    if _finished(job):
        shutil.rmtree(work_folder(job.out), ignore_errors=True)  # a kill may have come after the last write
        return _report(job, copied=0, fresh=False)
    order = find_order(job.parts)
    check_files(order, job.parts)
    join.check(job.parts)
    try:
        with claimed(job.out) as work:
            _begin(job, work)
            copied = _take_shards(job, order, link, progress)
            write_manifest(order, job.parts, job.out / "manifest.parquet")
            join.write(job.parts, job.out)
            _write_info(job, order)
        shutil.rmtree(work)
    except OSError as error:
        remedy = "mend that and run the same again: what is merged stays"
        raise InputError(f"out={out}: merging stopped at {error.filename} ({error.strerror}); {remedy}") from error
    return _report(job, copied, fresh=True)


def _plan(paths: Sequence[Path], out: Path) -> _Job:
    corpora = [_open(Path(path)) for path in paths]
    if not any(map(len, corpora)):
        raise InputError("parts: there is no utterance to merge; name packed corpora that hold some")
    if len({corpus.path.resolve() for corpus in corpora}) < len(corpora):
        raise InputError(f"parts={' '.join(map(str, paths))}: one is given twice; name each once")
    if len({corpus.sample_rate for corpus in corpora}) > 1:
        rates = ", ".join(f"{corpus.path} is at {corpus.sample_rate} Hz" for corpus in corpora)
        raise InputError(f"parts: sample rates differ: {rates}; pack them again at one rate")
    states = sorted((_state(corpus), place) for place, corpus in enumerate(corpora))
    corpora = [corpora[place] for _, place in states]
    info = [json.loads((corpus.path / "corpus.json").read_text(encoding="utf-8")) for corpus in corpora]
    kind = [shards.FORMAT, corpora[0].sample_rate, *(state for state, _ in states)]
    return _Job(corpora, info, out, hashlib.sha256(json.dumps(kind).encode()).hexdigest())


def _open(path: Path) -> Corpus:
    if work_folder(path).is_dir() and not (path / "corpus.json").is_file():
        raise InputError(f"part={path}: is not finished; run again the command that makes it, then merge")
    return Corpus.open(path)


def _state(corpus: Corpus) -> list[Any]:
    """First id, digest, and a checksum of each small file: what sorts the parts and tells when one has changed."""
    files = sorted(file for pattern in join.FILES for file in corpus.path.glob(pattern))
    sums = {str(file.relative_to(corpus.path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return [corpus.column("id")[0].as_py() if len(corpus) else "", corpus.digest, sorted(sums.items())]


def _finished(job: _Job) -> bool:
    """Whether `out` is the merged corpus already; InputError if it is another."""
    corpus = job.out / "corpus.json"
    if not corpus.is_file():
        return False
    if json.loads(corpus.read_text(encoding="utf-8")).get("plan") != job.identity:
        raise taken(job.out, "a packed corpus of something else, or these parts were changed since")
    return True


def _begin(job: _Job, work: Path) -> None:
    """Leave word of what is being merged; InputError if a killed run was about something else."""
    plan = work / "plan.json"
    if not plan.is_file():
        write_json(plan, {"digest": job.identity})
    if json.loads(plan.read_text(encoding="utf-8"))["digest"] != job.identity:
        raise taken(job.out, "what is unfinished of other parts, or of these before they were changed")


def _take_shards(job: _Job, order: Order, link: bool, progress: bool) -> int:
    """Link or copy every shard that is not there yet; how many of all are copies."""
    copied = 0
    with show_progress("merging shards", len(order.shards), job.parts[0].sample_rate, progress) as state:
        for number, (part, shard) in enumerate(order.shards):
            source = shards.shard_path(job.parts[part].path, shard).resolve()
            target = shards.shard_path(job.out, number)
            if not target.is_file():
                _take(source, target, link)
            copied += not target.samefile(source)
            state.tick(int(order.ends[number]))
    return copied


def _take(source: Path, target: Path, link: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        target.with_name(f"{target.name}.tmp").unlink(missing_ok=True)  # of a run that was killed while it copied
        try:
            os.link(source, target)
        except OSError:
            pass  # another disk, a file system without links, or too many of them
        else:
            return
    with source.open("rb") as given, atomic(target) as file:
        shutil.copyfileobj(given, file, 1 << 20)


def _write_info(job: _Job, order: Order) -> None:
    """Write corpus.json, which makes the folder a corpus."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    speakers = pq.read_table(job.out / "manifest.parquet", columns=["speaker"], memory_map=True)["speaker"]
    packed = sorted(digest for info in job.info for digest in info.get("parts", [info["digest"]]))
    digest = hashlib.sha256(json.dumps([job.parts[0].sample_rate, *packed]).encode()).hexdigest()
    info = {
        "format": shards.FORMAT,
        "sample_rate": job.parts[0].sample_rate,
        "utterances": len(order.rows),
        "samples": sum(info["samples"] for info in job.info),
        "speakers": len(set(pc.unique(speakers).to_pylist()) - {""}),
        "skipped": sum(info["skipped"] for info in job.info),
        "shards": len(order.shards),
        "digest": digest if len(packed) > 1 else packed[0],
        "plan": job.identity,
        "parts": packed,  # digests of the corpora that were packed
    }
    write_json(job.out / "corpus.json", info)


def _report(job: _Job, copied: int, fresh: bool) -> MergeReport:
    corpus = Corpus.open(job.out)
    info = json.loads((job.out / "corpus.json").read_text(encoding="utf-8"))
    labels = {scheme: len(corpus.labels(scheme)) for scheme in join.schemes([corpus])}
    has = {scheme: join.having(job.parts, scheme) for scheme in labels}
    return MergeReport(
        len(corpus),
        info["skipped"],
        info["samples"] / corpus.sample_rate,
        info["shards"],
        copied,
        {name: len(shards.read_ids(job.out / "splits" / f"{name}.txt")) for name in corpus.splits()},
        labels,
        {scheme: [part.path for part in job.parts if part not in found] for scheme, found in has.items()},
        join.left_behind(job.parts),
        fresh,
    )
