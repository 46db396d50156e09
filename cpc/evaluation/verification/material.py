"""What a verification session is about: trials, and the utterances whose mean the vectors are centred on."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int64

from cpc.config import InputError
from cpc.corpus.corpus import Corpus
from cpc.corpus.splits import has_speaker, overlap
from cpc.evaluation.verification.listing import read_trials
from cpc.evaluation.verification.trials import MOST, Trials, chapter_numbers, draw_trials

Rows = Int64[np.ndarray, " utterance"]
Usable = Callable[[Rows], Bool[np.ndarray, " utterance"]]  # samples of each utterance → has it a frame?


@dataclass(frozen=True)
class Choice:
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
class Material:
    """Trials on a corpus, the rows whose mean is taken from all vectors, and what a reader has to know of both."""

    corpus: Corpus
    choice: Choice
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


def gather(corpus: Corpus, choice: Choice, usable: Usable) -> Material:
    """Trials and training rows, without utterances that are too short for a frame.

    Raises InputError for unknown splits, a bad list, and where nothing is left of either.
    """
    train = np.unique(corpus.rows(choice.train))
    fit = train[usable(corpus.samples[train])]
    if not fit.size:
        raise InputError(f"train={choice.train}: all {len(train)} utterances are too short for a frame")
    trials, left_out = _drawn(corpus, choice, usable) if choice.listed is None else _listed(corpus, choice, usable)
    notes = (*left_out, *_sessions(corpus, choice, trials), _centring(corpus, choice, fit, trials))
    return Material(corpus, choice, fit, trials, notes)


def _drawn(corpus: Corpus, choice: Choice, usable: Usable) -> tuple[Trials, list[str]]:
    rows = np.unique(corpus.rows(choice.test))
    fit = rows[usable(corpus.samples[rows])]
    short = len(rows) - len(fit)
    notes = [f"{short} of {len(rows)} test utterances are too short for a frame: left out."] if short else []
    if nobody := int(np.count_nonzero(~has_speaker(corpus, fit))):
        notes.append(f"{nobody} of {len(rows)} test utterances have no known speaker: left out.")
    drawn = draw_trials(corpus, fit, other_chapters=choice.other_chapters, most=choice.most, seed=choice.seed)
    return drawn, notes


def _listed(corpus: Corpus, choice: Choice, usable: Usable) -> tuple[Trials, list[str]]:
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
    said = f"{short} of {len(trials)} trials have an utterance that is too short for a frame: left out."
    unnamed = f"{nobody} trials have an utterance whose speaker is not known: left out."
    return trials.keep(kept), [note for note, count in ((said, short), (unnamed, nobody)) if count]


def _sessions(corpus: Corpus, choice: Choice, trials: Trials) -> list[str]:
    """How many target trials may be told by the recording session."""
    if choice.other_chapters:
        return []
    one, other = (chapter_numbers(corpus, side[trials.target]) for side in (trials.first, trials.second))
    shared, unknown = int(((one == other) & (one >= 0)).sum()), int(((one < 0) | (other < 0)).sum())
    doubt = f", and of {unknown} more it is not known" if unknown else ""
    rule = ": what is alike there may be the recording session; see --other-chapters" if shared or unknown else ""
    return [f"{shared} of {len(one)} target trials share a chapter{doubt}{rule}."]


def _centring(corpus: Corpus, choice: Choice, train: Rows, trials: Trials) -> str:
    shared = overlap(corpus, train, trials.rows)
    return (
        f"The mean of {len(train)} utterances of {Path(choice.train).stem} was taken from all vectors, without labels; "
        f"it shares {shared.speakers} speakers, {shared.chapters} chapters and {shared.utterances} utterances with the "
        "trials."
    )
