"""The part files of a forced alignment, one a chunk of the corpus, and how they are joined into labels."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int16
from numpy import ndarray

from cpc.config import InputError
from cpc.data.alignment import AlignedRow, write_alignment
from cpc.data.corpus import Corpus
from cpc.data.engine import Engine, Tick, Work, Worker
from cpc.io import atomic, locked, write_json, write_text

from . import aligner, lexicon
from .aligner import PAUSE, PHONES, SAMPLE_RATE, Aligned, Aligner, AlignmentError
from .label_files import check_scheme
from .lexicon import pronounce, split_words, unknown_words
from .processes import Processes, cores, spread


class AlignJob(NamedTuple):
    """The alignment of one corpus under one name. `plan` changes whenever the outcome could: a checksum."""

    corpus: Path
    scheme: str
    plan: str

    @property
    def words(self) -> str:
        """The scheme of the words."""
        return "words" if self.scheme == "phones" else f"{self.scheme}_words"

    @property
    def parts(self) -> Path:
        return self.corpus / "labels" / f"{self.scheme}.parts"

    def part(self, number: int) -> Path:
        return self.parts / f"{number:06d}.parquet"

    @property
    def utterances(self) -> Path:
        return self.corpus / "labels" / f"{self.scheme}.utterances.tsv"

    @property
    def lexicon(self) -> Path:
        """Where the pronunciations go that were made for this corpus."""
        return self.corpus / "labels" / f"{self.scheme}.lexicon.tsv"


class Outcome(NamedTuple):
    """One utterance: how it was aligned, or the reason why it was not."""

    id: str
    samples: int
    aligned: Aligned | None
    reason: str = ""


class Tally(NamedTuple):
    """What came of some parts. `seconds` and `score` (nats a frame of speech, mean) are of what was aligned."""

    utterances: int
    failed: int
    reasons: Mapping[str, int]
    seconds: float
    score: float
    widened: int  # utterances that needed wider beams than PocketSphinx's own


class AlignReport(NamedTuple):
    """What came of an alignment, or of one shard of it: then `left` counts the chunks that other shards have to do.

    `took` and `fresh` are the seconds that this run took and the seconds of audio that it listened to.
    """

    job: AlignJob
    tally: Tally
    chunks: int
    left: int = 0
    took: float = 0.0
    fresh: float = 0.0
    workers: int = 1

    @property
    def real_time_factor(self) -> float:
        """Seconds of work, of all processes together, a second of audio; 0 if there was nothing to do."""
        return self.took * self.workers / self.fresh if self.fresh else 0.0

    def lines(self) -> list[str]:
        """The report in words."""
        done, job, labels = self.tally, self.job, self.job.corpus / "labels"
        amount = f"{done.utterances - done.failed} of {done.utterances} utterances, {done.seconds / 3600:.2f} h"
        lines = [f"aligned {amount}; score {done.score:.2f} nats a frame of speech in the mean (0: perfect fit)"]
        if self.fresh:
            speed = f"{self.fresh / self.took:,.0f} × real time with {self.workers} process{'es' * (self.workers > 1)}"
            lines.append(f"{self.took:.0f} s for {self.fresh / 3600:.2f} h of audio: {speed}")
        else:
            lines.append("was done before: nothing to do")
        if done.widened:
            lines.append(f"{done.widened} utterances needed wide beams: look at those of them that score low")
        if done.failed:
            reasons = ", ".join(f"{reason} ({count})" for reason, count in done.reasons.items())
            lines.append(f"without labels: {done.failed} utterances: {reasons}")
        if self.left:
            others = "when the other shards are done, the last of them joins all"
            return [*lines, f"{self.left} of {self.chunks} chunks are left: {others}"]
        lines.append(f"labels `{job.scheme}` and `{job.words}`; {job.utterances.name} in {labels} has every score")
        return lines


def write_part(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write one chunk, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = [outcome.aligned for outcome in outcomes]
    columns = {
        "id": pa.array([outcome.id for outcome in outcomes], pa.string()),
        "samples": pa.array([outcome.samples for outcome in outcomes], pa.int64()),
        "reason": pa.array([outcome.reason for outcome in outcomes], pa.string()),
        "score": pa.array([each and each.score for each in found], pa.float64()),
        "beams": pa.array([each and each.beams for each in found], pa.int8()),
        "phone_starts": pa.array([each and each.phone_starts for each in found], pa.list_(pa.int32())),
        "phones": pa.array([each and each.phones for each in found], pa.list_(pa.int8())),
        "word_starts": pa.array([each and each.word_starts for each in found], pa.list_(pa.int32())),
        "words": pa.array([each and each.words for each in found], pa.list_(pa.string())),
    }
    with atomic(path) as file:
        pq.write_table(pa.table(columns), file)


def _rows(paths: Iterable[Path], *columns: str) -> Iterator[tuple[Any, ...]]:
    """The rows of the parts in their order, in memory for one part at a time."""
    import pyarrow.parquet as pq

    for path in paths:
        table = pq.ParquetFile(path).read(columns=list(columns))
        yield from zip(*(table[column].to_pylist() for column in columns), strict=True)


def tally(paths: Sequence[Path]) -> Tally:
    """Count what came of these parts."""
    reasons: Counter[str] = Counter()
    utterances = failed = samples = widened = 0
    total = 0.0
    for length, reason, score, beams in _rows(paths, "samples", "reason", "score", "beams"):
        utterances += 1
        if reason:
            failed += 1
            reasons[reason.partition(":")[0]] += 1
        else:
            samples, total, widened = samples + length, total + score, widened + (beams > 0)
    mean = total / max(1, utterances - failed)
    return Tally(utterances, failed, dict(reasons.most_common()), samples / SAMPLE_RATE, mean, widened)


def join(job: AlignJob, paths: Sequence[Path], provenance: Mapping[str, object]) -> None:
    """Write the words and the phones of a job, all of whose parts are `paths`; the phones' json comes last."""
    source = "forced alignment by PocketSphinx"
    names = sorted({word for (words,) in _rows(paths, "words") for word in words or ()} | {PAUSE})
    places = {name: place for place, name in enumerate(names)}
    rows = _aligned(paths, "word_starts", "words", places)
    write_alignment(job.corpus, job.words, rows, names, source, provenance)
    rows = _aligned(paths, "phone_starts", "phones", {place: place for place in range(len(PHONES))})
    write_alignment(job.corpus, job.scheme, rows, PHONES, source, provenance)


def _aligned(paths: Sequence[Path], starts: str, names: str, places: Mapping[Any, int]) -> Iterator[AlignedRow]:
    for id, samples, edges, labels in _rows(paths, "id", "samples", starts, names):
        if labels is not None:
            seconds = np.array([*edges, samples]) / SAMPLE_RATE
            yield AlignedRow(id, seconds[:-1], seconds[1:], np.array([places[label] for label in labels]))


def write_utterances(path: Path, paths: Sequence[Path]) -> None:
    """The score of every utterance, or the reason why it has none."""
    with atomic(path) as file:
        file.write(b"id\tscore\treason\n")
        for id, score, reason in _rows(paths, "id", "score", "reason"):
            file.write(f"{id}\t{'' if reason else f'{score:.4f}'}\t{reason}\n".encode())


def write_lexicon(path: Path, entries: Iterable[tuple[str, str]]) -> None:
    """A line a word: the word and its phones, none if it cannot be pronounced."""
    write_text(path, "word\tphones\n" + "".join(f"{word}\t{phones}\n" for word, phones in entries))


def read_lexicon(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as lines:
        return {row["word"]: row["phones"] for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)}


def checksum(paths: Iterable[Path]) -> str:
    """One sha256 over the bytes of some files."""
    sha = hashlib.sha256()
    for path in paths:
        sha.update(path.read_bytes())
    return sha.hexdigest()


# --- Forced alignment of a packed corpus: its transcripts to its audio, in parallel, restartable, in little memory.


FEW_WORDS = 1000  # words that one process pronounces faster than others start
FORMAT = 1  # raised whenever the same corpus would give other labels
MOST_SECONDS, FEWEST_SECONDS, CHUNKS = 600, 30, 64  # of audio in a chunk; of chunks, unless the limits forbid


class AlignChunk(NamedTuple):
    """Neighbouring utterances of a corpus, to become one part file."""

    job: AlignJob
    number: int
    rows: range
    ids: list[str]
    texts: list[str]


def align(
    corpus: Corpus,
    *,
    scheme: str = "phones",
    workers: int | None = None,
    shard: tuple[int, int] | None = None,
    progress: bool = True,
    engine: Engine | None = None,
) -> AlignReport:
    """Align every utterance that has a transcript, in `workers` processes (default: one a core).

    What cannot be aligned is left out, with its reason in labels/SCHEME.utterances.tsv. Killed at any moment, the
    same call resumes with the missing chunks and ends with the same bytes, for any number of workers. With `shard`
    (i, n) only every n-th chunk is done, from the i-th: several machines that see the same folder share the work, and
    whoever finds all chunks done joins them. With an `engine` (`cpc.scale.ray`) its workers align the chunks; they
    must all see the corpus.

    Raises InputError if PocketSphinx is missing, if the corpus is not at 16 kHz or has no transcripts, if nothing in
    it could be aligned, if its folder cannot be written, and if another process is at the same work.
    """
    workers, (first, every) = cores() if workers is None else workers, shard or (1, 1)
    if workers < 1:
        raise InputError(f"workers={workers}: must be at least 1")
    if not 1 <= first <= every:
        raise InputError(f"shard={first}/{every}: must be I/N with 1 <= I <= N")
    settings = _settings(corpus, scheme)
    try:
        return _run(corpus, scheme, settings, workers, first, every, progress, engine or Processes(workers))
    except OSError as error:
        remedy = "fix that and run the same command again: what is aligned stays"
        raise InputError(f"corpus={corpus.path}: its labels cannot be written ({error}); {remedy}") from error


def _run(
    corpus: Corpus,
    scheme: str,
    settings: dict[str, Any],
    workers: int,
    first: int,
    every: int,
    progress: bool,
    engine: Engine,
) -> AlignReport:
    start = time.monotonic()
    plan = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    job, chunks = AlignJob(corpus.path, scheme, plan), cut(corpus)
    if done := _finished(job, len(chunks)):
        return done
    mine = range(first - 1, len(chunks), every)
    _start(job, chunks)
    with _claimed(job, f"{first}-{every}"):
        _write_lexicon(job, corpus, workers)
        fresh = _align_chunks(job, corpus, {number: chunks[number] for number in mine}, engine, progress)
    with _claimed(job, "join", wait=True):
        if done := _finished(job, len(chunks)):  # by the process of another shard
            return done
        left = sum(not job.part(number).is_file() for number in range(len(chunks)))
        parts = [job.part(number) for number in (mine if left else range(len(chunks)))]
        report = AlignReport(job, tally(parts), len(chunks), left, time.monotonic() - start, fresh, workers)
        if not left:
            _join(job, parts, report.tally, settings)
    return report


def _settings(corpus: Corpus, scheme: str) -> dict[str, Any]:
    """All that the labels depend on, as the labels' provenance keeps it. Raises InputError if it cannot work."""
    check_scheme(scheme)
    model = lexicon.model_folder()
    if corpus.sample_rate != aligner.SAMPLE_RATE:
        rule = f"the aligner knows speech at {aligner.SAMPLE_RATE} Hz, this is at {corpus.sample_rate} Hz"
        raise InputError(f"corpus={corpus.path}: {rule}; pack it at {aligner.SAMPLE_RATE} Hz")
    if not any(text.strip() for text in corpus.texts):
        remedy = "pack it with *.trans.txt beside the audio as in LibriSpeech, or with --table and a column text"
        raise InputError(f"corpus={corpus.path}: has no transcripts to align; {remedy}")
    return {
        "kind": "alignment",
        "format": FORMAT,
        "corpus": corpus.digest,
        "tool": f"pocketsphinx {version('pocketsphinx')}",
        "model": "en-us",
        "dictionary": "cmudict-en-us.dict",
        "sha256": checksum([*sorted((model / "en-us").iterdir()), model / "cmudict-en-us.dict"]),
        "g2p": f"eSpeak NG of espeakng-loader {version('espeakng-loader')}, voice {lexicon.VOICE.name}",
        "settings": {**aligner.SETTINGS, "beams": list(aligner.BEAMS), "longest": aligner.LONGEST},
        "first_edge": aligner.FIRST_EDGE,
    }


def cut(corpus: Corpus) -> list[range]:
    """Rows of each chunk: about 64 chunks of equal audio, of 30 s at least and 10 minutes at most."""
    seconds = np.cumsum(corpus.samples) / corpus.sample_rate
    longest = min(max(float(seconds[-1]) / CHUNKS, FEWEST_SECONDS), MOST_SECONDS)
    places = np.floor((seconds - corpus.samples / corpus.sample_rate) / longest)
    edges = [*np.flatnonzero(np.diff(places, prepend=-1)).tolist(), len(seconds)]
    return [range(first, stop) for first, stop in pairwise(edges)]


def _finished(job: AlignJob, chunks: int) -> AlignReport | None:
    """The report of labels that are there already, from the same plan."""
    files = [job.corpus / "labels" / f"{scheme}.json" for scheme in (job.scheme, job.words)]
    if not all(path.is_file() for path in files):
        return None
    provenance = json.loads(files[0].read_text(encoding="utf-8")).get("provenance", {})
    if provenance.get("plan") != job.plan:
        return None
    shutil.rmtree(job.parts, ignore_errors=True)  # a kill may have come after the last write
    return AlignReport(job, Tally(**provenance["outcome"]), chunks)


def _start(job: AlignJob, chunks: Sequence[range]) -> None:
    """Make the folder of the part files; those of another plan or other chunks are of no use any more."""
    mark, plan = job.parts / "plan.json", {"plan": job.plan, "starts": [rows.start for rows in chunks]}
    if mark.is_file() and json.loads(mark.read_text(encoding="utf-8")) == plan:
        return
    shutil.rmtree(job.parts, ignore_errors=True)
    write_json(mark, plan)


@contextmanager
def _claimed(job: AlignJob, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold a part of the work for this process; the system lets go of it even after kill −9."""
    job.parts.mkdir(exist_ok=True)
    rule = f"another process is aligning it as `{job.scheme}`; wait for it to end"
    with locked(job.parts / f"lock-{what}", f"corpus={job.corpus}: {rule}", wait):
        yield


def _write_lexicon(job: AlignJob, corpus: Corpus, workers: int) -> None:
    """Pronounce what the dictionary does not hold: each word once, however often it is said."""
    if not (job.parts / job.lexicon.name).is_file():
        words = unknown_words(corpus.texts)
        spoken = spread(pronounce, words, workers if len(words) > FEW_WORDS else 1, chunksize=64)
        write_lexicon(job.parts / job.lexicon.name, zip(words, spoken, strict=True))


def _align_chunks(job: AlignJob, corpus: Corpus, chunks: dict[int, range], engine: Engine, progress: bool) -> float:
    """Align the chunks that have no part file yet; the seconds of audio in them."""
    missing = {number: rows for number, rows in chunks.items() if not job.part(number).is_file()}
    parts = ((number, rows, slice(rows.start, rows.stop)) for number, rows in missing.items())
    tasks = (AlignChunk(job, number, rows, corpus.ids[part], corpus.texts[part]) for number, rows, part in parts)
    items = sum(map(len, missing.values()))
    work = Work("aligning", tasks, partial(_aligning, job), items, corpus.sample_rate, "utterances")
    return sum(engine.run(work, progress)) / corpus.sample_rate


def _aligning(job: AlignJob) -> Worker[AlignChunk, int]:
    """Writes the part file of each chunk, and yields the samples in it."""
    tools = _tools(job)

    def align_chunks(tasks: Iterator[AlignChunk], tick: Tick) -> Iterator[int]:
        for task in tasks:
            outcomes = []
            for id, row, text in zip(task.ids, task.rows, task.texts, strict=True):
                outcomes.append(_align_one(tools[1], id, tools[0].waveform(row), text))
                tick(outcomes[-1].samples, failed=bool(outcomes[-1].reason))
            write_part(job.part(task.number), outcomes)
            yield sum(outcome.samples for outcome in outcomes)

    return align_chunks


@lru_cache(maxsize=1)
def _tools(job: AlignJob) -> tuple[Corpus, Aligner]:
    return Corpus.open(job.corpus), Aligner(read_lexicon(job.parts / job.lexicon.name))


def _align_one(tool: Aligner, id: str, samples: Int16[ndarray, " sample"], text: str) -> Outcome:
    try:
        return Outcome(id, len(samples), tool.align(samples, split_words(text)))
    except AlignmentError as error:
        return Outcome(id, len(samples), None, str(error))


def _join(job: AlignJob, parts: Sequence[Path], done: Tally, settings: dict[str, Any]) -> None:
    write_utterances(job.utterances, parts)
    if done.failed == done.utterances:
        reasons = "; ".join(f"{reason} ({count})" for reason, count in done.reasons.items())
        raise InputError(f"corpus={job.corpus}: nothing could be aligned: {reasons}; see {job.utterances}")
    (job.parts / job.lexicon.name).replace(job.lexicon)
    join(job, parts, {**settings, "plan": job.plan, "outcome": done._asdict()})
    shutil.rmtree(job.parts)
