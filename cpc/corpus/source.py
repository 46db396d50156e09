"""One utterance before it is packed: where its audio lies and what is known about it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Source:
    """One audio file that becomes one utterance. What is not known stays an empty string."""

    id: str
    path: Path
    speaker: str
    chapter: str = ""
    sex: str = ""
    subset: str = ""
    text: str = ""
