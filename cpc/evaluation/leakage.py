"""What training, test and pretraining share: refused where it makes a probe meaningless, said out loud elsewhere."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from cpc.config import InputError
from cpc.corpus.corpus import Corpus
from cpc.corpus.splits import overlap
from cpc.evaluation.result import Task

Rows = Int64[np.ndarray, " _"]


def check(task: Task, corpus: Corpus, train: Rows, test: Rows) -> tuple[str, ...]:
    """Sentences on what train and test share.

    Raises InputError if they share utterances, or if a speaker probe would be asked for speakers it never saw.
    """
    shared = overlap(corpus, train, test)
    if shared.utterances:
        rule = "training and test utterances must differ; take them out of one of the two"
        raise InputError(f"test: {shared.utterances} of {len(test)} utterances are trained on as well: {rule}")
    if task == "phone":
        return _phone_notes(corpus, test, shared.speakers)
    _check_speakers(corpus, train, test)
    return _session_notes(shared.chapters)


def _phone_notes(corpus: Corpus, test: Rows, shared: int) -> tuple[str, ...]:
    speakers = len(_names(corpus.speakers, test))
    return (f"{shared} of {speakers} test speakers are trained on as well.",) if shared else ()


def _session_notes(chapters: int) -> tuple[str, ...]:
    if not chapters:
        return ()
    return (f"Training and test share {chapters} chapters: the recording session may give the speaker away.",)


def _check_speakers(corpus: Corpus, train: Rows, test: Rows) -> None:
    known, asked = _names(corpus.speakers, train), _names(corpus.speakers, test)
    if "" in known | asked:
        raise InputError(f"corpus={corpus.path}: has utterances without a speaker; a speaker probe needs them all")
    if unknown := sorted(asked - known):
        count = f"{len(unknown)} of {len(asked)} speakers are not in train, for example {', '.join(unknown[:3])}"
        raise InputError(f"test: {count}; a classifier cannot name them: give splits that share their speakers")


def pretraining_note(corpus: Corpus, test: Rows, pretrain_ids: Sequence[str] | None) -> tuple[str, ...]:
    """One sentence on how much of the test set the model heard in pretraining; none where nobody knows."""
    if pretrain_ids is None:
        return ()
    heard = set(pretrain_ids)
    seen = np.array([row for row, id in enumerate(corpus.ids) if id in heard], dtype=np.int64)
    shared = overlap(corpus, seen, test)
    speakers = len(_names(corpus.speakers, test))
    return (
        f"Pretraining heard {shared.speakers} of {speakers} test speakers "
        f"and {shared.utterances} of {len(test)} test utterances (without labels).",
    )


def _names(column: Sequence[str], rows: Rows) -> set[str]:
    return {column[row] for row in rows.tolist()}
