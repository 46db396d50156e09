"""Long recordings become utterances: which files are cut, where, and under which ids; once, whatever kills it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock
from typing import IO, Any, NamedTuple

from cpc.audio import SAMPLE_RATE, Reader, Undecodable
from cpc.config import InputError
from cpc.corpus import Source
from cpc.corpus.listing import Listing, listed
from cpc.corpus.pack import claimed
from cpc.corpus.plan import taken, work_folder
from cpc.corpus.progress import Progress, show_progress
from cpc.corpus.shards import relative
from cpc.corpus.spool import Spool
from cpc.corpus.stream import stream
from cpc.files import atomic
from data_prep.pauses import HOP, SHORTEST, Spans, cut, frame_levels

CUTS = "cuts.jsonl"  # kept in the corpus: it says where each utterance lies in which recording


@dataclass(frozen=True)
class Rules:
    """How recordings are cut: the longest utterance, and the longest silence that is kept (None: all), in seconds.

    With `strict` a file that lacks a little of what its header says has an end that is lost.
    """

    longest: float = 60.0
    trim: float | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        if not self.longest >= 2 * SHORTEST:
            raise InputError(f"longest={self.longest:g}: must be at least {2 * SHORTEST:g} seconds")
        if self.trim is not None and not self.trim >= 0.2:
            raise InputError(f"trim={self.trim:g}: must be at least 0.2 seconds; shorter silences are part of speech")


class Cuts(NamedTuple):
    """What became of one file, in samples at its own rate."""

    path: str  # from the folder of recordings
    size: int  # bytes
    rate: int  # Hz
    samples: int  # what could be decoded
    spans: Spans  # the utterances
    lost: tuple[int, int | None] | None = None  # what could not be decoded, to be reported when packing


def cut_files(
    sources: Iterable[Source],
    root: Path,
    out: Path,
    rules: Rules,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> Iterator[Source]:
    """The same sources by their ids, but those that last longer than `rules.longest` as segments at pauses.

    Only files that may have to be cut are read (with `rules.trim` all), one block in memory for each worker. What
    was found is kept in `out`, file by file, for a run after a kill and as a record: OUT/cuts.jsonl, which is there
    only if something was read. Segments have the id ID-ONSET-OFFSET (hundredths of seconds, eight digits) and no
    text, and their chapter, if none is known, is the file's id: they were recorded together. A file that gives one
    utterance keeps its id and text, and one that gives none falls away. Raises InputError for ids that clash and for
    an `out` that holds something else.
    """
    ordered = listed(sources)
    known = _read(out, rules)

    def must_be_read(source: Source) -> Source | None:
        return source if _key(source.path, root) not in known and _may_be_long(source, rules) else None

    unread = listed(source for source in stream(must_be_read, ordered, workers) if source)
    if unread or (len(known) and not (out / CUTS).exists()):
        _examine(unread, known, root, out, rules, workers, progress)
    return _after(ordered, known, root)


def _after(ordered: Listing, known: Spool, root: Path) -> Iterator[Source]:
    """What the sources become by the cuts that are known."""
    for source in ordered:
        row = known.get(_key(source.path, root))
        yield from _segments(source, _parse(row)) if row else [source]


def _key(path: Path, root: Path) -> str:
    """What a file's cuts are known by."""
    return _place(relative(path, root), _size(path))


def _place(path: str, size: int) -> str:
    """Sorts as the pair does: nothing is less than \\0, and - (a size that is not known, −1) less than a digit."""
    return f"{path}\0{size:020d}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _may_be_long(source: Source, rules: Rules) -> bool:
    if rules.trim is not None:
        return True
    try:
        with closing(Reader(source.path, strict=rules.strict)) as reader:
            return reader.samples is None or reader.samples > rules.longest * reader.sample_rate
    except Undecodable:
        return False  # packing says why


def _segments(source: Source, cuts: Cuts) -> Iterator[Source]:
    spans = [span for span in cuts.spans if span != (0, cuts.samples)]
    if len(cuts.spans) == 1 and not cuts.lost:
        yield replace(source, start=spans[0][0], stop=spans[0][1]) if spans else source
        return
    chapter = source.chapter or source.id
    for start, stop in [*cuts.spans, *([cuts.lost] if cuts.lost else [])]:
        id = segment_id(source.id, start, stop, cuts.rate)
        yield replace(source, id=id, chapter=chapter, text="", start=start, stop=stop)


def segment_id(id: str, start: int, stop: int | None, rate: int) -> str:
    """ID-ONSET-OFFSET in hundredths of seconds, eight digits: in order of time up to eleven days."""
    times = [f"{round(100 * place / rate):08d}" if place is not None else "end" for place in (start, stop)]
    return "-".join([id, *times])


def _examine(
    unread: Listing,
    known: Spool,
    root: Path,
    out: Path,
    rules: Rules,
    workers: int | None,
    progress: bool,
) -> None:
    """Find the cuts of `unread`, each written down as soon as it is found, and then all of them in OUT/cuts.jsonl."""
    if (out / "corpus.json").exists():
        raise taken(out, "a packed corpus of other files or settings")
    lock = Lock()

    def examine(source: Source, log: IO[str], state: Progress) -> None:
        cuts = find_cuts(source.path, relative(source.path, root), rules)
        with lock:
            known[_place(cuts.path, cuts.size)] = cuts._asdict()
            log.write(_line(cuts))
            log.flush()
        state.tick(cuts.samples * SAMPLE_RATE // cuts.rate)

    try:
        with claimed(out) as work:
            _write(known, rules, work / CUTS)
            with (
                (work / CUTS).open("a", encoding="utf-8") as log,
                show_progress("finding pauses", len(unread), SAMPLE_RATE, progress) as state,
            ):
                for _ in stream(lambda source: examine(source, log, state), unread, workers or os.cpu_count()):
                    pass
            _write(known, rules, out / CUTS)
    except OSError as error:
        remedy = "mend that and run the same again: what was found stays"
        raise InputError(f"out={out}: cannot be written ({error.strerror}); {remedy}") from error


def find_cuts(path: Path, name: str, rules: Rules) -> Cuts:
    """Read one file to its end and cut it. A file that cannot be opened is one span, so that packing reports it."""
    size = _size(path)
    try:
        with closing(Reader(path, strict=rules.strict)) as reader:
            hop = max(round(HOP * reader.sample_rate), 1)
            levels = frame_levels(reader.blocks(), hop)
            end, whole = reader.position, reader.samples
            lost = (end, whole) if reader.damaged or ((whole or 0) > end and not reader.guesses) else None
            rate = reader.sample_rate
    except Undecodable:
        return Cuts(name, size, SAMPLE_RATE, 0, [(0, 0)])
    if not len(levels):
        return Cuts(name, size, rate, end, [(0, end)])
    spans = [(start * hop, stop * hop) for start, stop in cut(levels, rules.longest, rules.trim)]
    if spans and spans[-1][1] == len(levels) * hop:
        spans[-1] = (spans[-1][0], end)  # and what is left over, less than a frame
    return Cuts(name, size, rate, end, spans, lost)


def _head(rules: Rules) -> str:
    said = asdict(rules)
    if not rules.strict:  # as before there was this rule
        del said["strict"]
    return json.dumps(said) + "\n"


def _line(cuts: Cuts) -> str:
    return json.dumps(cuts._asdict()) + "\n"


def _write(known: Spool, rules: Rules, path: Path) -> None:
    with atomic(path) as file:
        file.write(_head(rules).encode())
        file.writelines(_line(_parse(row)).encode() for row in known.values())


def _read(out: Path, rules: Rules) -> Spool:
    """What an earlier run found. Raises InputError if that was by other rules."""
    known = Spool()
    file = next((place for place in (out / CUTS, work_folder(out) / CUTS) if place.is_file()), None)
    if file is None:
        return known
    with file.open(encoding="utf-8", errors="replace", newline="\n") as lines:
        head = next(lines, "")
        if head != _head(rules):
            raise taken(out, f"recordings that were cut by other rules ({head.strip()})")
        for line in lines:
            if line.endswith("\n"):  # a kill may have torn the last
                row = json.loads(line)
                known[_place(row["path"], row["size"])] = row
    return known


def _parse(row: dict[str, Any]) -> Cuts:
    spans = [(int(start), int(stop)) for start, stop in row["spans"]]
    return Cuts(**{**row, "spans": spans, "lost": row["lost"] and tuple(row["lost"])})
