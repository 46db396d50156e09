"""The part files of a forced alignment, one a chunk of the corpus, and how they are joined into labels."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cpc.corpus import AlignedRow, write_alignment
from cpc.files import atomic, write_text
from data_prep.aligner import PAUSE, SAMPLE_RATE, Aligned
from data_prep.arpabet import PHONES


class Job(NamedTuple):
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

    job: Job
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


def join(job: Job, paths: Sequence[Path], provenance: Mapping[str, object]) -> None:
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
