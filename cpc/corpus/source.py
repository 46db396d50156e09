"""One utterance before it is packed: where its audio lies and what is known about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
