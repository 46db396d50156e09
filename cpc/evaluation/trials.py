"""Trials: pairs of utterances, by one speaker or by two, drawn from a corpus so that no speaker outweighs the others.

Where there are more pairs than are wanted, every speaker gives equally many target trials and every pair of speakers
equally many non-target trials, as far as they have them: a level is filled up, and what the small ones lack goes to
the others. Within a speaker, or a pair of speakers, trials are drawn without replacement. Trials count alike
afterwards, so that a list gives the same numbers in any other program.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Bool, Int64

from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.data.splits import has_speaker, overlap
from cpc.io import write_text
from cpc.seeding import numpy_generator

MOST = 20_000  # trials of each kind

Sides = Int64[np.ndarray, " trial"]
Rows = Int64[np.ndarray, " utterance"]
Counts = Int64[np.ndarray, " cell"]


@dataclass(frozen=True)
class Trials:
    """Trial i asks whether rows first[i] and second[i] of a corpus are by one speaker; target[i] is the answer."""

    first: Sides
    second: Sides
    target: Bool[np.ndarray, " trial"]

    def __len__(self) -> int:
        return len(self.target)

    @property
    def rows(self) -> Rows:
        """The utterances that are in a trial, each once."""
        return np.union1d(self.first, self.second)

    def keep(self, kept: Bool[np.ndarray, " trial"]) -> "Trials":
        """Some of the trials."""
        return Trials(self.first[kept], self.second[kept], self.target[kept])


def draw_trials(
    corpus: Corpus,
    rows: Rows,
    *,
    other_chapters: bool = False,
    most: int = MOST,
    seed: int = 0,
) -> Trials:
    """At most `most` target and as many non-target trials of some rows of a corpus; all pairs where those are fewer.

    Utterances without a known speaker are in none. With `other_chapters`, target trials are of two chapters, both of
    them known. No pair comes twice, in either order.

    Raises:
        InputError: there is no trial of one of the kinds.
    """
    if most < 1:
        raise InputError(f"most={most}: must be at least 1, the trials of each kind")
    speaker, chapter, order = _by_speaker(corpus, rows)
    targets = _targets(speaker, chapter, other_chapters, most, seed)
    others = _non_targets(speaker, most, seed)
    if not targets.size:
        rule = "has two utterances, of known and different chapters" if other_chapters else "has two utterances"
        remedy = "; drop --other-chapters or give another split" if other_chapters else "; give a larger split"
        raise InputError(f"test: none of {len(np.unique(speaker))} speakers {rule}{remedy}")
    if not others.size:
        raise InputError("test: holds one speaker only; give a split with at least two")
    first, second = order[np.concatenate([targets, others], axis=1)]
    return Trials(first, second, np.arange(len(first)) < targets.shape[1])


def chapter_numbers(corpus: Corpus, rows: Int64[np.ndarray, " _"]) -> Int64[np.ndarray, " _"]:
    """The chapter of each row as a number, −1 where it is not known."""
    names, chapter = corpus.groups("chapter")
    known = np.array([name != "" for name in names])
    return np.where(known[chapter[rows]], chapter[rows], -1)


def _by_speaker(corpus: Corpus, rows: Int64[np.ndarray, " _"]) -> tuple[Rows, Rows, Rows]:
    """Speakers, chapters and rows, sorted by speaker and chapter, unknown chapters first; of known speakers alone."""
    rows = np.unique(rows)
    rows = rows[has_speaker(corpus, rows)]
    speaker = corpus.groups("speaker")[1]
    chapter = chapter_numbers(corpus, rows)
    order = np.lexsort((rows, chapter, speaker[rows]))
    return speaker[rows][order], chapter[order], rows[order]


def _targets(speaker: Rows, chapter: Rows, other_chapters: bool, most: int, seed: int) -> Int64[np.ndarray, "2 trial"]:
    """Places of pairs: each utterance with those behind it by its speaker, or behind its chapter."""
    place = np.arange(len(speaker))
    bounds = np.append(np.flatnonzero(np.diff(speaker, prepend=-1)), len(speaker))
    end = np.repeat(bounds[1:], np.diff(bounds))
    after = place + 1
    if other_chapters:
        own = np.flatnonzero((np.diff(speaker, prepend=-1) != 0) | (np.diff(chapter, prepend=-2) != 0))
        after = np.repeat(np.append(own[1:], len(speaker)), np.diff(np.append(own, len(speaker))))
        after = np.where(chapter < 0, end, after)
    numbering = _Numbering(after, end)
    starts = numbering.first[bounds]  # the numbers of a speaker's pairs lie between two of these
    generator = numpy_generator(seed, "target trials")
    return numbering.pairs(_drawn(starts[:-1], np.diff(starts), most, generator))


def _non_targets(speaker: Rows, most: int, seed: int) -> Int64[np.ndarray, "2 trial"]:
    """Places of pairs: utterances of two speakers. Beyond `most` pairs of speakers, one trial of so many of them."""
    names, start, size = np.unique(speaker, return_index=True, return_counts=True)
    numbering = _Numbering(np.arange(1, len(names) + 1), np.full(len(names), len(names)))
    generator = numpy_generator(seed, "non-target trials")
    count = int(numbering.first[-1])
    chosen = np.arange(count) if count <= most else generator.choice(count, most, replace=False, shuffle=False)
    one, other = numbering.pairs(np.sort(chosen))
    sizes = size[one] * size[other]
    first = np.cumsum(sizes) - sizes
    numbers = _drawn(first, sizes, most, generator)
    cell = np.searchsorted(first, numbers, side="right") - 1
    along, across = np.divmod(numbers - first[cell], size[other][cell])
    return np.stack([start[one][cell] + along, start[other][cell] + across])


class _Numbering:
    """Numbers for pairs (i, j) with after[i] ≤ j < end[i]: those of i begin at first[i]."""

    def __init__(self, after: Counts, end: Counts) -> None:
        self.after = after
        self.first = np.concatenate([[0], np.cumsum(end - after)])

    def pairs(self, numbers: Int64[np.ndarray, " pair"]) -> Int64[np.ndarray, "2 pair"]:
        i = np.searchsorted(self.first, numbers, side="right") - 1
        return np.stack([i, self.after[i] + numbers - self.first[i]])


def _drawn(first: Counts, sizes: Counts, most: int, generator: np.random.Generator) -> Int64[np.ndarray, " drawn"]:
    """At most so many numbers of all cells together; those of a cell are first … first + size − 1."""
    if int(sizes.sum()) <= most:
        return np.concatenate([np.arange(f, f + n) for f, n in zip(first, sizes, strict=True)] or [first])
    parts = [
        f + np.sort(generator.choice(n, quota, replace=False, shuffle=False))
        for f, n, quota in zip(first, sizes, fair_shares(sizes, most, generator), strict=True)
    ]
    return np.concatenate(parts)


def fair_shares(sizes: Counts, most: int, generator: np.random.Generator) -> Counts:
    """How many of each cell, `most` in all: as equal as the sizes allow, what is left over one each to a few."""
    level, above = 0, most + 1  # the highest level at which min(size, level) sum up to `most` at most
    while above - level > 1:
        middle = (level + above) // 2
        level, above = (middle, above) if np.minimum(sizes, middle).sum() <= most else (level, middle)
    shares: Counts = np.minimum(sizes, level)
    larger = np.flatnonzero(sizes > level)
    shares[generator.choice(larger, min(most - int(shares.sum()), len(larger)), replace=False)] += 1
    return shares


# --- Lists of trials as files, in VoxCeleb's format: `1 ID ID` for one speaker, `0 ID ID` for two, one trial a line.


FORMAT = "a line must be 1 or 0 and two ids: 1 ID ID for one speaker, 0 ID ID for two"


def read_trials(file: Path, corpus: Corpus) -> Trials:
    """Trials of a file whose ids are those of a corpus, or the files' paths that packing a folder made the ids of.

    Raises InputError, with the number of the line, for a line that is no trial, an id that the corpus does not have,
    and an answer that its speakers contradict; and for a list without trials of both kinds.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else "cannot be read as UTF-8 text"
        raise InputError(f"trials={file}: {reason}; give a list in VoxCeleb's format ({FORMAT})") from None
    rows, speakers = {id: row for row, id in enumerate(corpus.ids)}, corpus.speakers
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                found.append(_trial(line, rows, speakers))
            except ValueError as error:
                raise InputError(f"trials={file}: line {number}: {error}") from None
    first, second, target = np.array(found, dtype=np.int64).reshape(-1, 3).T
    trials = Trials(first, second, target == 1)
    if len(set(trials.target.tolist())) < 2:
        kind = "neither" if not len(trials) else "only one"
        raise InputError(f"trials={file}: {len(trials)} trials, {kind} of the two kinds; an error rate needs both")
    return trials


def _trial(line: str, rows: Mapping[str, int], speakers: list[str]) -> tuple[int, int, bool]:
    words = line.split()
    if len(words) != 3 or words[0] not in ("0", "1"):
        raise ValueError(f"{line.strip()[:60]!r}: {FORMAT}")
    first, second = (_row(word, rows) for word in words[1:])
    if first == second:
        raise ValueError(f"{words[1]} with itself; a trial needs two utterances")
    target = words[0] == "1"
    if "" not in (speakers[first], speakers[second]) and target != (speakers[first] == speakers[second]):
        claim = "one speaker" if target else "two speakers"
        raise ValueError(f"says {claim}; in the corpus they are by {speakers[first]} and {speakers[second]}")
    return first, second, target


def _row(word: str, rows: Mapping[str, int]) -> int:
    stem = word.removesuffix(PurePosixPath(word).suffix)
    for id in (word, stem, stem.replace("/", "-")):  # id10270/x6uYqmx31kE/00001.wav is id10270-x6uYqmx31kE-00001
        if id in rows:
            return rows[id]
    raise ValueError(f"{word} is not in the corpus, whose ids are like {next(iter(rows))}")


def write_trials(file: Path, trials: Trials, corpus: Corpus) -> None:
    """Write what `read_trials` reads. Raises InputError for an id with a blank, which the format cannot hold."""
    ids = corpus.ids
    if odd := [ids[row] for row in trials.rows.tolist() if len(ids[row].split()) != 1]:
        raise InputError(f"trials={file}: id {odd[0]!r} has a blank, which would part it; pack with other ids")
    pairs = zip(trials.target.tolist(), trials.first.tolist(), trials.second.tolist(), strict=True)
    write_text(file, "".join(f"{int(target)} {ids[one]} {ids[other]}\n" for target, one, other in pairs))


# --- What a verification session is about: trials, and the utterances whose mean the vectors are centred on.


Usable = Callable[[Rows], Bool[np.ndarray, " utterance"]]  # samples of each utterance → has it a frame?


@dataclass(frozen=True)
class TrialChoice:
    """Which trials: those of the file `listed`, or drawn from the split `test`; `train` is what they are centred on."""

    train: str = "speaker_train"
    test: str = "speaker_test"
    listed: Path | None = None
    other_chapters: bool = False
    most: int = MOST
    seed: int = 0

    @property
    def source(self) -> str:
        """What the trials are from."""
        return self.test if self.listed is None else str(self.listed)


@dataclass(frozen=True)
class VerificationData:
    """Trials on a corpus, the rows whose mean is taken from all vectors, and what a reader has to know of both."""

    corpus: Corpus
    choice: TrialChoice
    train: Rows
    trials: Trials
    notes: tuple[str, ...]

    @property
    def rows(self) -> Rows:
        """All utterances that a vector is needed of, sorted."""
        return np.union1d(self.train, self.trials.rows)

    @property
    def digest(self) -> str:
        """A hash of the audio, the training rows and the trials."""
        digest = hashlib.sha256(json.dumps([self.corpus.digest, self.notes, self.choice.seed]).encode())
        for numbers in (self.train, self.trials.first, self.trials.second, self.trials.target.astype(np.int64)):
            digest.update(np.append(len(numbers), numbers).astype("<i8").tobytes())
        return digest.hexdigest()


def gather(corpus: Corpus, choice: TrialChoice, usable: Usable) -> VerificationData:
    """Trials and training rows, without utterances that are too short for a frame.

    Raises InputError for unknown splits, a bad list, and where nothing is left of either.
    """
    train = np.unique(corpus.rows(choice.train))
    fit = train[usable(corpus.samples[train])]
    if not fit.size:
        raise InputError(f"train={choice.train}: all {len(train)} utterances are too short for a frame")
    trials, left_out = (
        _drawn_material(corpus, choice, usable) if choice.listed is None else _listed(corpus, choice, usable)
    )
    notes = (*left_out, *_sessions(corpus, choice, trials), _centring(corpus, choice, fit, trials))
    return VerificationData(corpus, choice, fit, trials, notes)


def _drawn_material(corpus: Corpus, choice: TrialChoice, usable: Usable) -> tuple[Trials, list[str]]:
    rows = np.unique(corpus.rows(choice.test))
    fit = rows[usable(corpus.samples[rows])]
    short = len(rows) - len(fit)
    notes = [f"{short} of {len(rows)} test utterances are too short for a frame: skipped."] if short else []
    if nobody := int(np.count_nonzero(~has_speaker(corpus, fit))):
        notes.append(f"{nobody} of {len(rows)} test utterances have no known speaker: skipped.")
    drawn = draw_trials(corpus, fit, other_chapters=choice.other_chapters, most=choice.most, seed=choice.seed)
    return drawn, notes


def _listed(corpus: Corpus, choice: TrialChoice, usable: Usable) -> tuple[Trials, list[str]]:
    if choice.listed is None or choice.other_chapters:
        raise InputError(f"other_chapters: the pairs are those of {choice.listed}; drop --other-chapters or --trials")
    trials = read_trials(choice.listed, corpus)
    named = has_speaker(corpus, trials.first) & has_speaker(corpus, trials.second)
    trials, nobody = trials.keep(named), int((~named).sum())
    kept = usable(corpus.samples[trials.first]) & usable(corpus.samples[trials.second])
    if len(set(trials.target[kept].tolist())) < 2:
        rule = "without utterances too short for a frame or of no known speaker, one kind is left at most"
        raise InputError(f"trials={choice.listed}: {rule}")
    short = int((~kept).sum())
    said = f"{short} of {len(trials)} trials have an utterance that is too short for a frame: skipped."
    unnamed = f"{nobody} trials have an utterance whose speaker is not known: skipped."
    return trials.keep(kept), [note for note, count in ((said, short), (unnamed, nobody)) if count]


def _sessions(corpus: Corpus, choice: TrialChoice, trials: Trials) -> list[str]:
    """How many target trials may be told by the recording session."""
    if choice.other_chapters:
        return []
    one, other = (chapter_numbers(corpus, side[trials.target]) for side in (trials.first, trials.second))
    shared, unknown = int(((one == other) & (one >= 0)).sum()), int(((one < 0) | (other < 0)).sum())
    doubt = f", and of {unknown} more it is not known" if unknown else ""
    rule = ": what is alike there may be the recording session; see --other-chapters" if shared or unknown else ""
    return [f"{shared} of {len(one)} target trials share a chapter{doubt}{rule}."]


def _centring(corpus: Corpus, choice: TrialChoice, train: Rows, trials: Trials) -> str:
    shared = overlap(corpus, train, trials.rows)
    return (
        f"The mean of {len(train)} utterances of {Path(choice.train).stem} was taken from all vectors, without labels; "
        f"it shares {shared.speakers} speakers, {shared.chapters} chapters and {shared.utterances} utterances with the "
        "trials."
    )
