"""Where a recording can be cut: its pauses, found from the level of short frames against a noise floor that moves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float32, Int64
from numpy import ndarray

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
    """Frames that belong to no speech, judged by the levels around them.

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
    speech = [(0, len(levels))] if trim is None else _without(runs(quiet, trim), len(levels), round(trim / HOP / 2))
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
