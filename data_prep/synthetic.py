"""The embedded corpus: speech synthesised on the spot, with exact phone labels and nothing to download.

    cpc data synthetic OUT [--speakers 40] [--hours 2] [--seed 0] [--workers 1] [--audio-only]

What it is good for: trying the whole pipeline in minutes, tests, and work that needs labels exact to the sample
(aligners, probes). What it is not good for: any claim about real speech. Its speakers are settings of one formant
synthesiser, its sentences come from a small grammar, and its rooms are a little coloured noise.

The voice is eSpeak NG (GPL version 3 or later), loaded at run time as a separate library out of the wheel
`espeakng-loader`; see `data_prep.espeak`, which also holds the phone inventory.

OUT/audio is laid out as LibriSpeech is, with each chapter's phones beside it (`*.phones.tsv`: id, onset and offset
in seconds, phone). Every utterance is a pure function of the seed and its id, and a chapter appears whole or not
at all: a killed run, started again, resumes where it was and ends with the same bytes.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer

from cpc.audio.decode import SAMPLE_RATE, write_flac
from cpc.config import InputError
from cpc.data.alignment import AlignedRow, write_alignment
from cpc.data.pack import pack
from cpc.data.progress import show_progress
from cpc.data.shards import Source
from cpc.data.splits import write_split
from cpc.io import write_json

from . import console, espeak
from . import speakers as sentences
from .processes import spread
from .speakers import CHAPTERS, TEST, TRAIN, VALID, Chapter, chapters, make_speakers, utterance, write_tables

FORMAT = 1  # raised whenever the same settings would give other bytes
FEWEST_SPEAKERS = 4
FEWEST_UTTERANCES = 2  # in a chapter, however few hours were asked for

SOURCE = "eSpeak NG's own phoneme events: exact"

app = typer.Typer(add_completion=False)


class Recorded(NamedTuple):
    """One utterance on disk: where it lies and its phones as the chapter's table has them."""

    source: Source
    phones: AlignedRow

    @property
    def seconds(self) -> float:
        return float(self.phones.offsets[-1])


class _Task(NamedTuple):
    out: Path
    chapter: Chapter
    seconds: float  # of audio wanted
    seed: int


def make(out: Path, *, speakers: int, hours: float, seed: int = 0, workers: int = 1) -> Path:
    """Make a packed corpus with labels and splits at `out`, silently; `out`, ready for `Corpus.open`.

    Splits: `pretrain`, `valid`, `phone_train`, `phone_test`, `speaker_train`, `speaker_test`. With `workers` above
    1 the calling script needs the usual `if __name__ == "__main__":`.
    """
    build(out, speakers=speakers, hours=hours, seed=seed, workers=workers, progress=False)
    return out


def build(
    out: Path,
    *,
    speakers: int,
    hours: float,
    seed: int = 0,
    workers: int = 1,
    audio_only: bool = False,
    progress: bool = True,
) -> str:
    """Make the corpus, or resume it, or find it finished; what was done, in one line.

    Raises InputError for settings out of range, and if `out` holds anything but this corpus.
    """
    _check(speakers, hours, workers)
    settings: dict[str, object] = {"format": FORMAT, "speakers": speakers, "hours": hours, "seed": seed}
    settings["espeakng-loader"] = version("espeakng-loader")
    done = _claim(out, settings)
    if done == "corpus" or (done == "audio" and audio_only):
        return f"{out}: already holds this corpus; nothing to do"
    start = time.monotonic()
    recorded = _audio(out, speakers, hours, seed, workers, progress)
    if not audio_only:
        _pack(out, recorded, workers, progress)
    write_json(out / "synthetic.json", {**settings, "done": "audio" if audio_only else "corpus"})
    total = sum(one.seconds for one in recorded) / 3600
    took = time.monotonic() - start
    return f"{out}: {len(recorded)} utterances, {speakers} speakers, {total:.2f} h, made in {took:.0f} s"


def _check(speakers: int, hours: float, workers: int) -> None:
    if speakers < FEWEST_SPEAKERS:
        rule = f"the splits need at least {FEWEST_SPEAKERS} (two to train, one to validate, one to test)"
        raise InputError(f"speakers={speakers}: {rule}")
    if not (math.isfinite(hours) and hours > 0):
        raise InputError(f"hours={hours}: must be more than 0, for example 2")
    if workers < 1:
        raise InputError(f"workers={workers}: must be at least 1")


def _claim(out: Path, settings: dict[str, object]) -> str:
    """How far the corpus of these settings is at `out`: "", "audio" or "corpus". Claims an empty folder."""
    mark = out / "synthetic.json"
    if mark.is_file():
        held = json.loads(mark.read_text())
        done = str(held.pop("done"))
        if held != settings:
            differ = ", ".join(f"{key} {held.get(key)}" for key in settings if held.get(key) != settings[key])
            remedy = "remove that folder, name another one, or ask for the same"
            raise InputError(f"out={out}: holds a synthetic corpus of other settings ({differ}); {remedy}")
        return done
    if out.exists() and not out.is_dir():
        raise InputError(f"out={out}: is a file; name a folder")
    if out.is_dir() and any(path.name != f"{mark.name}.tmp" for path in out.iterdir()):
        raise InputError(f"out={out}: holds something else; remove that folder or name another one")
    write_json(mark, {**settings, "done": ""})
    return ""


def _audio(out: Path, count: int, hours: float, seed: int, workers: int, progress: bool) -> list[Recorded]:
    """Synthesise what is missing of OUT/audio and its tables; all utterances, read back from there."""
    people = make_speakers(count, seed)
    seconds = hours * 3600 / (count * CHAPTERS)
    tasks = [_Task(out, chapter, seconds, seed) for speaker in people for chapter in chapters(speaker, seed)]
    missing = [task for task in tasks if not (out / task.chapter.folder).is_dir()]
    with show_progress("synthesising chapters", len(missing), SAMPLE_RATE, progress) as state:
        for samples in spread(_write_chapter, missing, workers):  # processes: eSpeak NG is one global state
            state.tick(samples)
    books = {task.chapter: read_chapter(out, task.chapter) for task in tasks}
    write_tables(out, people, {chapter: sum(one.seconds for one in book) / 60 for chapter, book in books.items()})
    return [one for book in books.values() for one in book]


def _write_chapter(task: _Task) -> int:
    """Write one chapter under a temporary name and rename it when it is whole; the samples in it."""
    folder = task.out / task.chapter.folder
    draft = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    stem = f"{task.chapter.speaker.id}-{task.chapter.id}"
    total, words, phones = 0, list[str](), list[str]()
    while total < task.seconds * SAMPLE_RATE or len(words) < FEWEST_UTTERANCES:
        id = f"{stem}-{len(words):04d}"
        spoken = utterance(task.chapter, id, task.seed)
        write_flac(draft / f"{id}.flac", spoken.samples)
        words.append(f"{id} {sentences.transcript(spoken.text)}\n")
        phones += [f"{id}\t{onset:.7f}\t{offset:.7f}\t{name}\n" for onset, offset, name in spoken.phones]
        total += len(spoken.samples)
    (draft / f"{stem}.trans.txt").write_text("".join(words))
    (draft / f"{stem}.phones.tsv").write_text("".join(phones))
    draft.replace(folder)
    return total


def read_chapter(out: Path, chapter: Chapter) -> list[Recorded]:
    """The utterances of a finished chapter, from its `.trans.txt` and `.phones.tsv`."""
    folder, speaker = out / chapter.folder, chapter.speaker
    stem = f"{speaker.id}-{chapter.id}"
    rows = defaultdict(list)
    for line in (folder / f"{stem}.phones.tsv").read_text().splitlines():
        id, onset, offset, name = line.split("\t")
        rows[id].append((float(onset), float(offset), espeak.INVENTORY.index(name)))
    recorded = []
    for line in (folder / f"{stem}.trans.txt").read_text().splitlines():
        id, text = line.split(" ", 1)
        source = Source(id, folder / f"{id}.flac", speaker.id, chapter.id, speaker.sex, speaker.subset, text)
        onsets, offsets, labels = np.array(rows[id]).T
        recorded.append(Recorded(source, AlignedRow(id, onsets, offsets, labels.astype(np.int64))))
    return recorded


def _pack(out: Path, recorded: Sequence[Recorded], workers: int, progress: bool) -> None:
    """Labels, splits, and last of all the packed audio, which makes it a corpus."""
    write_alignment(out, "phones", [one.phones for one in recorded], espeak.INVENTORY, SOURCE)
    sources = [one.source for one in recorded]
    for name, ids in _splits(sources).items():
        write_split(out, name, ids)
    (out / "packing").mkdir(exist_ok=True)  # tells `pack` that what lies beside it is ours
    pack(sources, out, workers=workers, progress=progress)


def _splits(sources: Sequence[Source]) -> dict[str, list[str]]:
    """Speakers of `phone_test` and of `valid` are nowhere else; `speaker_test` is each speaker's last session.

    `phone_train` is each training speaker's first: labels are plenty, and a probe in minutes is worth more than all.
    """

    def ids(subset: str, sessions: range) -> list[str]:
        return [one.id for one in sources if one.subset == subset and int(one.chapter[-1]) in sessions]

    every, last = range(1, CHAPTERS + 1), range(CHAPTERS, CHAPTERS + 1)
    return {
        "pretrain": ids(TRAIN, every),
        "valid": ids(VALID, every),
        "phone_train": ids(TRAIN, range(1, 2)),
        "phone_test": ids(TEST, every),
        "speaker_train": ids(TRAIN, range(1, CHAPTERS)),
        "speaker_test": ids(TRAIN, last),
    }


@app.command()
def main(
    out: Annotated[Path, typer.Argument(help="Folder to make; it is reused if it holds the same corpus.")],
    speakers: Annotated[int, typer.Option(help="Distinct voices, women and men in turn; 4 or more.")] = 40,
    hours: Annotated[float, typer.Option(help="Hours of audio, at least.")] = 2.0,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes that synthesise; the bytes do not depend on it.")] = 1,
    audio_only: Annotated[bool, typer.Option("--audio-only", help="FLAC files only: do not pack them.")] = False,
) -> None:
    """Synthesise a speech corpus with exact phone labels (eSpeak NG) and pack it for training.

    Synthetic: good for trying the pipeline and for tests, not for claims about real speech.
    """
    done = build(out, speakers=speakers, hours=hours, seed=seed, workers=workers, audio_only=audio_only)
    typer.echo(done)


if __name__ == "__main__":
    console.run(app)
