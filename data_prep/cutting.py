"""Where a recording can be cut: its pauses, found from the level of short frames against a noise floor that moves."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64
from numpy import ndarray

from cpc.audio.decode import SAMPLE_RATE, Reader
from cpc.audio.integrity import Undecodable
from cpc.config import InputError
from cpc.data.engine import Engine, Threads, Tick, Work, Worker
from cpc.data.pack import Listing, claimed, listed, taken, work_folder
from cpc.data.progress import stream
from cpc.data.shards import Source, relative
from cpc.data.spool import Spool
from cpc.io import atomic

HOP = 0.01  # seconds: the frame of the search, and the grain of every cut
PAUSE = 0.3  # seconds: the shortest pause; the closure of a stop lasts up to 0.2
SHORTEST = 1.0  # seconds: no cut leaves a shorter piece
_SPAN = 10.0  # seconds: the noise floor is found anew this often, over three times as much
_RANGE = 40.0  # dB: a floor further below the loud frames is silence put there by an editor
_SILENT = -90.0  # dB of full scale: below one step of 16 bits

Spans = list[tuple[int, int]]


def frame_levels(blocks: Iterator[Float32[ndarray, " sample"]], hop: int) -> Float32[ndarray, " frame"]:
    """The level of each `hop` samples in dB of full scale: their variance, so that a constant offset counts nothing.

    One block is in memory at a time; an hour leaves 1.4 MB of levels. NaN counts as silence. What is left over at
    the end, less than a frame, has no level.
    """
    found, rest = [], np.zeros(0, np.float32)
    for block in blocks:
        samples = np.concatenate([rest, block]) if len(rest) else block
        whole = len(samples) // hop * hop
        rest = samples[whole:]
        frames = np.clip(np.nan_to_num(samples[:whole]), -1, 1).reshape(-1, hop)
        found.append((10 * np.log10(frames.var(axis=1, dtype=np.float64) + 1e-10)).astype(np.float32))
    return np.concatenate(found) if found else np.zeros(0, np.float32)


def find_quiet(levels: Float32[ndarray, " frame"]) -> Bool[ndarray, " frame"]:
    """Frames that belong to no speech, told by the levels around them.

    The noise floor is a low percentile of the level over 30 s, which holds pauses however steadily someone speaks
    (the idea of Martin 2001, minimum statistics); the bar lies a quarter of the way from there to the loud frames,
    at least 6 dB up. It stays 10 dB below the loudest frames of the whole recording, so that in a hum without
    pauses nothing is taken for one.
    """
    if not len(levels):
        return np.zeros(0, bool)
    step = round(_SPAN / HOP)
    starts = np.arange(0, len(levels), step)
    windows = (levels[max(start - step, 0) : start + 2 * step] for start in starts)
    low, high = np.array([np.percentile(window, [10, 95]) for window in windows]).T
    low = np.maximum(low, high - _RANGE)
    bars = low + np.maximum(6, (high - low) / 4)
    bar = np.interp(np.arange(len(levels)), starts + step / 2, bars)
    return np.asarray(levels < np.maximum(np.minimum(bar, np.percentile(levels, 99.9) - 10), _SILENT))


def runs(quiet: Bool[ndarray, " frame"], shortest: float) -> Int64[ndarray, "run 2"]:
    """First frame and end of each run of quiet frames that lasts at least `shortest` seconds."""
    edges = np.flatnonzero(np.diff(quiet, prepend=False, append=False)).reshape(-1, 2)
    return edges[edges[:, 1] - edges[:, 0] >= round(shortest / HOP)]


def cut(levels: Float32[ndarray, " frame"], longest: float, trim: float | None = None) -> Spans:
    """Cut a recording into spans of frames, none longer than `longest` seconds.

    Without `trim` the spans join and cover every frame. With it, of each silence longer than `trim` seconds only
    `trim`/2 stay at either side of the speech. A span that is still too long is cut in the middle of the longest
    pause in the second half of what may be kept; if there is none, at the quietest frame there. No cut leaves a
    piece of less than SHORTEST seconds, if `longest` is at least twice that.
    """
    quiet = find_quiet(levels)
    pauses = runs(quiet, PAUSE)
    # Both margins fit into the shortest silence: of an odd number of frames, the middle one goes.
    speech = [(0, len(levels))] if trim is None else _without(runs(quiet, trim), len(levels), round(trim / HOP) // 2)
    return [piece for start, stop in speech for piece in _split(levels, pauses, start, stop, round(longest / HOP))]


def _without(silences: Int64[ndarray, "run 2"], frames: int, margin: int) -> Spans:
    """What is left of `frames` without the silences, `margin` frames of each kept beside speech."""
    edges = [0]
    for start, stop in silences.tolist():
        edges += [start + margin if start else 0, stop - margin if stop < frames else frames]
    edges.append(frames)
    return [(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True) if start < stop]


def _split(
    levels: Float32[ndarray, " frame"], pauses: Int64[ndarray, "run 2"], start: int, stop: int, longest: int
) -> Iterator[tuple[int, int]]:
    middles, lengths = pauses.sum(axis=1) // 2, pauses[:, 1] - pauses[:, 0]
    while stop - start > longest:
        low, high = start + longest // 2, min(start + longest, stop - min(round(SHORTEST / HOP), longest // 2))
        first, last = np.searchsorted(middles, [low, high + 1])
        if first < last:
            place = int(middles[last - 1 - lengths[first:last][::-1].argmax()])  # of equals the last
        else:
            place = low + int(levels[low : high + 1].argmin())
        yield start, place
        start = place
    yield start, stop


# --- Long recordings become utterances: which files are cut, where, and under which ids; once, whatever kills it.


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
    engine: Engine | None = None,
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

    def needs_reading(source: Source) -> Source | None:
        return source if _key(source.path, root) not in known and _may_be_long(source, rules) else None

    unread = listed(source for source in stream(needs_reading, ordered, workers) if source)
    if unread or (len(known) and not (out / CUTS).exists()):
        chosen = engine or Threads(workers or os.cpu_count() or 1)
        _examine(unread, known, root, out, rules, chosen, progress)
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
    engine: Engine,
    progress: bool,
) -> None:
    """Find the cuts of `unread`, each written down as soon as it is found, and then all of them in OUT/cuts.jsonl."""
    if (out / "corpus.json").exists():
        raise taken(out, "a packed corpus of other files or settings")
    work = Work("finding pauses", unread, partial(_finder, root, rules), len(unread), SAMPLE_RATE)
    try:
        with claimed(out) as folder:
            _write(known, rules, folder / CUTS)
            with (folder / CUTS).open("a", encoding="utf-8") as log:
                for cuts in engine.run(work, progress):
                    known[_place(cuts.path, cuts.size)] = cuts._asdict()
                    log.write(_line(cuts))
                    log.flush()
            _write(known, rules, out / CUTS)
    except OSError as error:
        remedy = "fix that and run the same command again: what was found stays"
        raise InputError(f"out={out}: cannot be written ({error.strerror}); {remedy}") from error


def _finder(root: Path, rules: Rules) -> Worker[Source, Cuts]:
    """Finds the cuts of files, which may last hours: a block is one file."""

    def find(sources: Iterator[Source], tick: Tick) -> Iterator[Cuts]:
        for source in sources:
            cuts = find_cuts(source.path, relative(source.path, root), rules)
            tick(cuts.samples * SAMPLE_RATE // cuts.rate)
            yield cuts

    return find


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
