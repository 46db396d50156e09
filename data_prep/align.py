"""Forced alignment of a packed corpus: its transcripts to its audio, in parallel, restartable, in little memory.

`python -m data_prep.labels CORPUS --align` calls `align`. The corpus is cut into chunks of some minutes; each one
becomes a part file in labels/SCHEME.parts, and when all are there they are joined into

    labels/SCHEME.parquet, .json      phones: SIL, SPN and the 39 of ARPAbet without stress
    labels/words.parquet, .json       words, `<eps>` between them (SCHEME_words beside another scheme than phones)
    labels/SCHEME.utterances.tsv      id, score, and the reason where an utterance could not be aligned
    labels/SCHEME.lexicon.tsv         the pronunciations of words that PocketSphinx's dictionary does not hold
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int16
from numpy import ndarray

from cpc.config import InputError
from cpc.corpus import Corpus
from cpc.corpus.progress import show_progress
from cpc.files import locked, write_json
from data_prep import aligner, lexicon
from data_prep.aligner import Aligner, AlignmentError
from data_prep.alignment_parts import (
    AlignReport,
    Job,
    Outcome,
    Tally,
    checksum,
    join,
    read_lexicon,
    tally,
    write_lexicon,
    write_part,
    write_utterances,
)
from data_prep.intake import check_scheme
from data_prep.lexicon import pronounce, split_words, unknown_words
from data_prep.processes import cores, spread

FEW_WORDS = 1000  # words that one process pronounces faster than others start
FORMAT = 1  # raised whenever the same corpus would give other labels
MOST_SECONDS, FEWEST_SECONDS, CHUNKS = 600, 30, 64  # of audio in a chunk; of chunks, unless the limits forbid


class Task(NamedTuple):
    """Neighbouring utterances of a corpus, to become one part file."""

    job: Job
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
) -> AlignReport:
    """Align every utterance that has a transcript, in `workers` processes (default: one a core).

    What cannot be aligned is left out, with its reason in labels/SCHEME.utterances.tsv. Killed at any moment, the
    same call goes on with the missing chunks and ends with the same bytes, for any number of workers. With `shard`
    (i, n) only every n-th chunk is done, from the i-th: several machines that see the same folder share the work, and
    whoever finds all chunks done joins them.

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
        return _run(corpus, scheme, settings, workers, first, every, progress)
    except OSError as error:
        remedy = "mend that and run the same again: what is aligned stays"
        raise InputError(f"corpus={corpus.path}: its labels cannot be written ({error}); {remedy}") from error


def _run(
    corpus: Corpus, scheme: str, settings: dict[str, Any], workers: int, first: int, every: int, progress: bool
) -> AlignReport:
    start = time.monotonic()
    plan = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    job, chunks = Job(corpus.path, scheme, plan), cut(corpus)
    if done := _finished(job, len(chunks)):
        return done
    mine = range(first - 1, len(chunks), every)
    _start(job, chunks)
    with _claimed(job, f"{first}-{every}"):
        _write_lexicon(job, corpus, workers)
        fresh = _align_chunks(job, corpus, {number: chunks[number] for number in mine}, workers, progress)
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


def _finished(job: Job, chunks: int) -> AlignReport | None:
    """The report of labels that are there already, from the same plan."""
    files = [job.corpus / "labels" / f"{scheme}.json" for scheme in (job.scheme, job.words)]
    if not all(path.is_file() for path in files):
        return None
    provenance = json.loads(files[0].read_text(encoding="utf-8")).get("provenance", {})
    if provenance.get("plan") != job.plan:
        return None
    shutil.rmtree(job.parts, ignore_errors=True)  # a kill may have come after the last write
    return AlignReport(job, Tally(**provenance["outcome"]), chunks)


def _start(job: Job, chunks: Sequence[range]) -> None:
    """Make the folder of the part files; those of another plan or other chunks are of no use any more."""
    mark, plan = job.parts / "plan.json", {"plan": job.plan, "starts": [rows.start for rows in chunks]}
    if mark.is_file() and json.loads(mark.read_text(encoding="utf-8")) == plan:
        return
    shutil.rmtree(job.parts, ignore_errors=True)
    write_json(mark, plan)


@contextmanager
def _claimed(job: Job, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold a part of the work for this process; the system lets go of it even after kill −9."""
    job.parts.mkdir(exist_ok=True)
    rule = f"another process is aligning it as `{job.scheme}`; wait for it to end"
    with locked(job.parts / f"lock-{what}", f"corpus={job.corpus}: {rule}", wait):
        yield


def _write_lexicon(job: Job, corpus: Corpus, workers: int) -> None:
    """Pronounce what the dictionary does not hold: each word once, however often it is said."""
    if not (job.parts / job.lexicon.name).is_file():
        words = unknown_words(corpus.texts)
        spoken = spread(pronounce, words, workers if len(words) > FEW_WORDS else 1, chunksize=64)
        write_lexicon(job.parts / job.lexicon.name, zip(words, spoken, strict=True))


def _align_chunks(job: Job, corpus: Corpus, chunks: dict[int, range], workers: int, progress: bool) -> float:
    """Align the chunks that have no part file yet; the seconds of audio in them."""
    missing = {number: rows for number, rows in chunks.items() if not job.part(number).is_file()}
    parts = ((number, rows, slice(rows.start, rows.stop)) for number, rows in missing.items())
    tasks = [Task(job, number, rows, corpus.ids[part], corpus.texts[part]) for number, rows, part in parts]
    heard = 0
    with show_progress("aligning", sum(map(len, missing.values())), corpus.sample_rate, progress) as state:
        for lengths in spread(_align_chunk, tasks, min(workers, max(1, len(tasks)))):
            heard += sum(lengths)
            state.files += len(lengths) - 1
            state.tick(sum(lengths))
    return heard / corpus.sample_rate


def _align_chunk(task: Task) -> list[int]:
    """Write one part file; the samples of each utterance in it."""
    corpus, tool = _tools(task.job)
    utterances = zip(task.ids, map(corpus.waveform, task.rows), task.texts, strict=True)
    outcomes = [_align_one(tool, *utterance) for utterance in utterances]
    write_part(task.job.part(task.number), outcomes)
    return [outcome.samples for outcome in outcomes]


@lru_cache(maxsize=1)
def _tools(job: Job) -> tuple[Corpus, Aligner]:
    return Corpus.open(job.corpus), Aligner(read_lexicon(job.parts / job.lexicon.name))


def _align_one(tool: Aligner, id: str, samples: Int16[ndarray, " sample"], text: str) -> Outcome:
    try:
        return Outcome(id, len(samples), tool.align(samples, split_words(text)))
    except AlignmentError as error:
        return Outcome(id, len(samples), None, str(error))


def _join(job: Job, parts: Sequence[Path], done: Tally, settings: dict[str, Any]) -> None:
    write_utterances(job.utterances, parts)
    if done.failed == done.utterances:
        reasons = "; ".join(f"{reason} ({count})" for reason, count in done.reasons.items())
        raise InputError(f"corpus={job.corpus}: nothing could be aligned: {reasons}; see {job.utterances}")
    (job.parts / job.lexicon.name).replace(job.lexicon)
    join(job, parts, {**settings, "plan": job.plan, "outcome": done._asdict()})
    shutil.rmtree(job.parts)
