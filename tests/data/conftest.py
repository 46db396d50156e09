"""Small corpora of noise in int16 WAVs, each sample known."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cpc.data.shards import Source

RATE = 16000


def noise(place: int) -> np.ndarray:
    """The samples of utterance `place`: 300 to 1299 of them."""
    generator = np.random.default_rng(place)
    return generator.integers(-32768, 32768, generator.integers(300, 1300)).astype(np.int16)


def write_sources(folder: Path, count: int) -> list[Source]:
    """`count` utterances u00, u01, …; three speakers in turn, chapters of six, in no order."""
    sources = []
    for place in range(count):
        path = folder / f"s{place % 3}" / f"u{place:02d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, noise(place), RATE)
        sources.append(Source(path.stem, path, f"s{place % 3}", str(place // 6), "F", "dev", f"text {place}"))
    return sources[::-1]


@pytest.fixture
def sources(tmp_path: Path) -> Callable[[int], list[Source]]:
    return lambda count: write_sources(tmp_path / "audio", count)


@pytest.fixture
def samples_of() -> Callable[[int], np.ndarray]:
    return noise
