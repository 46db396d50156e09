"""The embedded corpus: speech synthesised on the spot, with exact phone labels and nothing to download.

    python -m data_prep.synthetic OUT [--speakers 40] [--hours 2] [--seed 0] [--workers 1] [--audio-only]

What it is good for: trying the whole pipeline in minutes, tests, and work that needs labels exact to the sample
(aligners, probes). What it is not good for: any claim about real speech. Its speakers are settings of one formant
synthesiser, its sentences come from a small grammar, and its rooms are a little coloured noise.

The voice is eSpeak NG (GPL version 3 or later), loaded at run time as a separate library out of the wheel
`espeakng-loader`; see `data_prep.espeak`, which also holds the phone inventory.

OUT/audio is laid out as LibriSpeech is, with each chapter's phones beside it (`*.phones.tsv`: id, onset and offset
in seconds, phone). Every utterance is a pure function of the seed and its id, and a chapter appears whole or not
at all: a killed run, started again, goes on where it was and ends with the same bytes.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from itertools import pairwise
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from jaxtyping import Float32, Int16
from numpy import ndarray
from numpy.random import Generator

from cpc.audio import SAMPLE_RATE, resample, to_int16, write_flac
from cpc.config import InputError
from cpc.corpus import AlignedRow, Source, pack, write_alignment, write_split
from cpc.corpus.progress import show_progress
from cpc.corpus.shards import write_json, write_text
from cpc.seeding import numpy_generator
from data_prep import console, espeak, sentences

FORMAT = 1  # raised whenever the same settings would give other bytes
FEWEST_SPEAKERS = 4
FEWEST_UTTERANCES = 2  # in a chapter, however few hours were asked for
CHAPTERS = 3  # recording sessions of each speaker
TRAIN, VALID, TEST = SUBSETS = ("train-synthetic", "dev-synthetic", "test-synthetic")

_DIALECTS = (
    *("en", "en-us", "en-us-nyc", "en-029"),
    *("en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-gb-x-rp"),
)
# Natural enough, and without echo (it would blur every boundary), whisper or vocoder.
_VARIANTS = {
    "F": "Andrea Annie aunty belinda f1 grandma linda steph steph2",
    "M": """Andy Denis Diogo Gene Jacky Lee Mario Michael Mike Nguyen Storm boris ed gustave ian iven4 john m1 m3 m4
        m5 m6 m7 m8 marcelo max michel norbert paul quincy rob robert travis victor""",
}
SOURCE = "eSpeak NG's own phoneme events: exact"

app = typer.Typer(add_completion=False)


class Speaker(NamedTuple):
    """One voice of the corpus."""

    id: str
    sex: str
    subset: str
    voice: espeak.Voice


class Chapter(NamedTuple):
    """One recording session of a speaker: in another one the same words would sound a little different."""

    id: str
    speaker: Speaker
    pace: int  # words a minute, added to the speaker's own
    level: float  # dB: power of the speech re full scale
    snr: float  # dB
    colour: float  # of the noise: pole of a low-pass filter, of a high-pass one where negative

    @property
    def folder(self) -> Path:
        return Path("audio", self.speaker.subset, self.speaker.id, self.id)


class Utterance(NamedTuple):
    """One utterance: audio at 16 kHz, its words, and the (onset, offset, name) of its phones, in seconds."""

    text: str
    samples: Int16[ndarray, " sample"]
    phones: list[tuple[float, float, str]]


def cast(count: int, seed: int) -> list[Speaker]:
    """Women and men in turn, each of another variant, dialect, pitch and pace; the last 25% are held out."""
    test, valid = max(1, round(0.15 * count)), max(1, round(0.1 * count))
    subsets = [TRAIN] * (count - test - valid) + [VALID] * valid + [TEST] * test
    return [_speaker(place, subset, seed) for place, subset in enumerate(subsets)]


def _speaker(place: int, subset: str, seed: int) -> Speaker:
    sex, turn = "FM"[place % 2], place // 2
    shared = numpy_generator(seed, "variants", sex)  # the same draw for every speaker of this sex
    variants = shared.permutation(_VARIANTS[sex].split()).tolist()
    dialects = shared.integers(len(_DIALECTS), size=len(variants))
    lap, variant = divmod(turn, len(variants))  # a variant comes again only when all are used, in another dialect
    dialect = _DIALECTS[(int(dialects[variant]) + lap) % len(_DIALECTS)]
    draw = numpy_generator(seed, "speaker", place)
    rate, pitch, pitch_range = (int(draw.integers(*ends)) for ends in ((145, 185), (35, 66), (35, 75)))
    voice = espeak.Voice(f"{dialect}+{variants[variant]}", rate, pitch, pitch_range)
    return Speaker(str(1001 + place), sex, subset, voice)


def chapters(speaker: Speaker, seed: int) -> list[Chapter]:
    """The recording sessions of a speaker."""
    return [_chapter(f"{speaker.id}{number}", speaker, seed) for number in range(1, CHAPTERS + 1)]


def _chapter(id: str, speaker: Speaker, seed: int) -> Chapter:
    draw = numpy_generator(seed, "chapter", id)
    level, snr, colour = draw.uniform(-28, -18), draw.uniform(31, 44), draw.uniform(-0.3, 0.9)
    return Chapter(id, speaker, int(draw.integers(-8, 9)), level, snr, colour)


def utterance(chapter: Chapter, id: str, seed: int) -> Utterance:
    """Speak and record one utterance of about 2 to 12 s: a pure function of the seed and the id."""
    draw = numpy_generator(seed, "utterance", id)
    text = sentences.passage(draw, int(draw.integers(5, 19)))
    voice = chapter.speaker.voice
    speech = espeak.speak(text, voice._replace(rate=voice.rate + chapter.pace))
    before, after = draw.integers(espeak.SAMPLE_RATE // 10, espeak.SAMPLE_RATE // 3, size=2).tolist()
    quiet = espeak.surround(speech, before, after)
    samples = to_int16(_record(quiet.samples, chapter, draw))
    return Utterance(text, samples, _in_seconds(espeak.segment(quiet), len(samples) / SAMPLE_RATE))


def _record(speech: Int16[ndarray, " native"], chapter: Chapter, draw: Generator) -> Float32[ndarray, " sample"]:
    """Resample to 16 kHz, bring to the session's level, and add its noise. The peak stays below full scale."""
    clean = resample(speech.astype(np.float32) / np.float32(32768), espeak.SAMPLE_RATE, SAMPLE_RATE)
    power = float(np.sqrt(np.mean(np.square(clean))))
    level = _decibels(chapter.level + draw.uniform(-1.5, 1.5))
    gain = min(level / power, 0.9 / float(np.abs(clean).max()))
    noise = gain * power * _decibels(-chapter.snr - draw.uniform(-1, 1))
    return np.float32(gain) * clean + np.float32(noise) * _noise(len(clean), chapter.colour, draw)


def _decibels(level: float) -> float:
    return float(10 ** (level / 20))


def _noise(samples: int, colour: float, draw: Generator) -> Float32[ndarray, " sample"]:
    """Noise of unit power, through the first 12 terms of a one-pole filter."""
    kernel = np.power(colour, np.arange(12)).astype(np.float32)
    kernel /= np.linalg.norm(kernel)
    white = draw.standard_normal(samples + len(kernel) - 1, dtype=np.float32)
    return np.convolve(white, kernel, "valid").astype(np.float32)


def _in_seconds(phones: list[espeak.Phone], end: float) -> list[tuple[float, float, str]]:
    """Phones in seconds; the last one lasts to the `end` of the resampled audio, which rounding may have moved."""
    edges = [phone.start / espeak.SAMPLE_RATE for phone in phones] + [end]
    return [(*times, phone.name) for times, phone in zip(pairwise(edges), phones, strict=True)]


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
    """Make the corpus, or go on with it, or find it finished; what was done, in one line.

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
    people = cast(count, seed)
    seconds = hours * 3600 / (count * CHAPTERS)
    tasks = [_Task(out, chapter, seconds, seed) for speaker in people for chapter in chapters(speaker, seed)]
    missing = [task for task in tasks if not (out / task.chapter.folder).is_dir()]
    with show_progress("synthesising chapters", len(missing), SAMPLE_RATE, progress) as state:
        for samples in _each(missing, workers):
            state.tick(samples)
    books = {task.chapter: read_chapter(out, task.chapter) for task in tasks}
    _write_tables(out, people, books)
    return [one for book in books.values() for one in book]


def _each(tasks: Sequence[_Task], workers: int) -> Iterator[int]:
    if workers == 1:
        yield from map(_write_chapter, tasks)
        return
    # Processes, because eSpeak NG is one global state; spawned, because forking a process with threads is unsafe.
    with ProcessPoolExecutor(workers, get_context("spawn"), _end_with_parent) as pool:
        try:
            yield from pool.map(_write_chapter, tasks)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _end_with_parent() -> None:
    """A pool's process would wait for work for ever if its parent is killed: let it end too."""

    def watch() -> None:
        if parent := parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


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


def _write_tables(out: Path, people: Sequence[Speaker], books: dict[Chapter, list[Recorded]]) -> None:
    """SPEAKERS.TXT and CHAPTERS.TXT as LibriSpeech has them."""
    minutes = {chapter: sum(one.seconds for one in book) / 60 for chapter, book in books.items()}
    lines = [";ID  |SEX| SUBSET           |MINUTES| NAME\n"]
    for who in people:
        spoken = sum(length for chapter, length in minutes.items() if chapter.speaker == who)
        name = f"eSpeak NG {who.voice.name}, pitch {who.voice.pitch} of range {who.voice.pitch_range}"
        lines.append(f"{who.id:<5}| {who.sex} | {who.subset:<17}| {spoken:5.2f} | {name}\n")
    sessions = [";ID    |READER|MINUTES| SUBSET           | PROJ.|BOOK ID| CH. TITLE | PROJECT TITLE\n"]
    for number, (chapter, length) in enumerate(minutes.items()):
        who, title = chapter.speaker, f"Session {number % CHAPTERS + 1}"
        sessions.append(
            f"{chapter.id:<7}| {who.id:<5}| {length:5.2f} | {who.subset:<17}| 0    | 0     | {title} | Synthetic\n"
        )
    write_text(out / "SPEAKERS.TXT", "".join(lines))
    write_text(out / "CHAPTERS.TXT", "".join(sessions))


def _pack(out: Path, recorded: Sequence[Recorded], workers: int, progress: bool) -> None:
    """Labels, splits, and last of all the packed audio, which makes it a corpus."""
    write_alignment(out, "phones", [one.phones for one in recorded], espeak.INVENTORY, SOURCE)
    sources = [one.source for one in recorded]
    for name, ids in _splits(sources).items():
        write_split(out, name, ids)
    (out / "packing").mkdir(exist_ok=True)  # tells `pack` that what lies beside it is ours
    pack(sources, out, workers=workers, progress=progress)


def _splits(sources: Sequence[Source]) -> dict[str, list[str]]:
    """Speakers of `phone_test` and of `valid` are nowhere else; `speaker_test` is each speaker's last session."""

    def ids(subset: str, sessions: range) -> list[str]:
        return [one.id for one in sources if one.subset == subset and int(one.chapter[-1]) in sessions]

    every, last = range(1, CHAPTERS + 1), range(CHAPTERS, CHAPTERS + 1)
    return {
        "pretrain": ids(TRAIN, every),
        "valid": ids(VALID, every),
        "phone_train": ids(TRAIN, every),
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
    options = {"seed": seed, "workers": workers}
    typer.echo(build(out, speakers=speakers, hours=hours, audio_only=audio_only, **options))


if __name__ == "__main__":
    console.run(app)
