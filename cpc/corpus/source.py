"""One utterance before it is packed: where its audio lies and what is known about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cpc.config import InputError


@dataclass(frozen=True, slots=True)
class Source:
    """One utterance: an audio file, or samples start..stop of one. What is not known stays an empty string.

    `start` and `stop` count samples of the file at the file's own rate; `stop=None` is the end of the file.
    """

    id: str
    path: Path
    speaker: str
    chapter: str = ""
    sex: str = ""
    subset: str = ""
    text: str = ""
    start: int = 0
    stop: int | None = None

    @property
    def is_segment(self) -> bool:
        """Whether it is a part of its file, not the whole of it."""
        return self.start > 0 or self.stop is not None


def take_shard(sources: Sequence[Source], i: int, n: int) -> list[Source]:
    """Part i (1-based) of n: sorted by id, contiguous, of nearly equal size; the n parts together are all.

    Raises InputError unless 1 <= i <= n <= number of sources.
    """
    if not 1 <= i <= n:
        raise InputError(f"shard={i}/{n}: the first number must lie in 1..{max(n, 1)}, for example 1/{max(n, 1)}")
    if n > len(sources):
        raise InputError(f"shard={i}/{n}: there are only {len(sources)} files to share out; use fewer shards")
    ordered = sorted(sources, key=lambda source: source.id)
    first, stop = ((place * len(ordered)) // n for place in (i - 1, i))
    return ordered[first:stop]
