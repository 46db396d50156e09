"""A corpus whose phones are chords and whose speakers are hums, with labels exact to the sample."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from cpc.data.alignment import AlignedRow, write_alignment
from cpc.data.corpus import Corpus
from cpc.data.pack import pack
from cpc.data.shards import Source
from cpc.data.splits import write_split

PHONES = [(400, 900), (400, 1500), (700, 1200), (700, 2000), (300, 2500), (1000, 3000)]  # Hz
SPEAKERS, CHAPTERS, UTTERANCES = 4, 3, 4
RATE = 16000


def _chords(generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Audio, edges in samples, phones: chords of 50 to 110 ms, no two equal ones in a row."""
    steps = generator.integers(1, len(PHONES), generator.integers(14, 24))
    phones = np.cumsum(steps) % len(PHONES)
    edges = np.concatenate([[0], np.cumsum(generator.integers(800, 1760, len(phones)))])
    seconds = np.arange(edges[-1]) / RATE
    pitches = np.array(PHONES)[np.repeat(phones, np.diff(edges))]
    return np.sin(2 * np.pi * pitches * seconds[:, None]).sum(1), edges, phones


def _utterance(speaker: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    chords, edges, phones = _chords(generator)
    hum = 0.5 * np.sin(2 * np.pi * (100 + 60 * speaker) * np.arange(len(chords)) / RATE)
    return 0.1 * (chords + hum + 0.3 * generator.normal(size=len(chords))), edges / RATE, phones


@pytest.fixture(scope="session")
def chords(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """48 utterances of 1 to 2 s by 4 speakers in 3 chapters each, `phones`, splits by speaker and by chapter.

    The labels `shuffled` are those of another utterance. One utterance more, `silent`, is too short for a frame.
    """
    folder, generator = tmp_path_factory.mktemp("chords"), np.random.default_rng(0)
    sources, rows = [], []
    for number in range(SPEAKERS * CHAPTERS * UTTERANCES):
        speaker, chapter = number % SPEAKERS, number // SPEAKERS % CHAPTERS
        id = f"s{speaker}-c{chapter}-{number:02d}"
        audio, edges, phones = _utterance(speaker, generator)
        rows.append(AlignedRow(id, edges[:-1], edges[1:], phones))
        sources.append(_source(folder, id, audio))
    sources.append(_source(folder, "s0-c0-silent", np.zeros(150)))
    _pack(folder / "packed", sources, rows)
    return Corpus.open(folder / "packed")


def _source(folder: Path, id: str, audio: np.ndarray) -> Source:
    soundfile.write(folder / f"{id}.wav", audio.astype(np.float32), RATE)
    speaker, chapter, _ = id.split("-")
    return Source(id=id, path=folder / f"{id}.wav", speaker=speaker, chapter=chapter)


def _pack(out: Path, sources: list[Source], rows: list[AlignedRow]) -> None:
    pack(sources, out, workers=1, progress=False)
    names = [row.id for row in rows]
    write_alignment(out, "phones", rows, [str(hertz) for hertz in PHONES], "constructed")
    moved = [row._replace(id=id) for row, id in zip(rows, [*names[7:], *names[:7]], strict=True)]
    write_alignment(out, "shuffled", moved, [str(hertz) for hertz in PHONES], "constructed")
    for name, where, inside in (("phone", "s3", True), ("speaker", "c2", True)):
        write_split(out, f"{name}_train", [id for id in names if (where in id) is not inside])
        write_split(out, f"{name}_test", [id for id in names if (where in id) is inside])
