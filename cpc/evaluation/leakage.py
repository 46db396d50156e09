"""What training, test and pretraining share: refused where it makes a probe meaningless, said out loud elsewhere."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.data.splits import Overlap, extents, has_speaker, overlap
from cpc.evaluation.results import ProbeTask

Rows = Int64[np.ndarray, " _"]


class Unknown(NamedTuple):
    """Why nobody can say what a model was trained on."""

    reason: str


def check(task: ProbeTask, corpus: Corpus, train: Rows, test: Rows) -> tuple[str, ...]:
    """Sentences on what train and test share: utterances, speakers and chapters, whatever the task.

    Raises InputError if they share utterances, or if a speaker probe would be asked for speakers it never saw.
    """
    shared = overlap(corpus, train, test)
    if shared.utterances:
        rule = "training and test utterances must differ; take them out of one of the two"
        raise InputError(f"test: {shared.utterances} of {len(test)} utterances are trained on as well: {rule}")
    nobody = _check_speakers(corpus, train, test) if task.startswith("speaker") else ()
    said = f"Training and test share {_counts(corpus, shared, test)}"
    given_away = task.startswith("speaker") and shared.chapters > 0
    session = ": the recording session may give the speaker away" if given_away else ""
    return (f"{said}{session}.", *nobody, *_unknown_sessions(corpus, test))


def _counts(corpus: Corpus, shared: Overlap, test: Rows) -> str:
    held = extents(corpus, {"test": test})["test"]
    return (
        f"{shared.speakers} of {held.speakers} test speakers, {shared.chapters} of {held.chapters} test chapters "
        f"and {shared.utterances} of {held.utterances} test utterances"
    )


def _unknown_sessions(corpus: Corpus, test: Rows) -> tuple[str, ...]:
    chapters, chapter = corpus.groups("chapter")
    unknown = int((np.array([name == "" for name in chapters])[chapter[test]]).sum())
    rule = "whether a recording session is on both sides is not known"
    return (f"{unknown} of {len(test)} test utterances have no chapter: {rule}.",) if unknown else ()


def _check_speakers(corpus: Corpus, train: Rows, test: Rows) -> tuple[str, ...]:
    """How many utterances have no speaker, and are skipped."""
    names, speaker = corpus.groups("speaker")
    known, asked = ({names[code] for code in np.unique(speaker[rows]).tolist()} - {""} for rows in (train, test))
    if unknown := sorted(asked - known):
        count = f"{len(unknown)} of {len(asked)} speakers are not in train, for example {', '.join(unknown[:3])}"
        raise InputError(f"test: {count}; a classifier cannot name them: give splits that share their speakers")
    nobody = [int(np.count_nonzero(~has_speaker(corpus, rows))) for rows in (train, test)]
    if not any(nobody):
        return ()
    return (
        f"{nobody[0]} of {len(train)} training and {nobody[1]} of {len(test)} test utterances have no known speaker: "
        "skipped.",
    )


def pretraining_note(corpus: Corpus, test: Rows, pretrain_ids: Sequence[str] | Unknown | None) -> tuple[str, ...]:
    """One sentence on how much of the test set the model heard in pretraining, or why nobody knows; none for None."""
    if pretrain_ids is None:
        return ()
    if isinstance(pretrain_ids, Unknown):
        return (f"How much of the test pretraining heard is not known: {pretrain_ids.reason}.",)
    import pyarrow as pa
    import pyarrow.compute as pc

    heard = pc.is_in(corpus.column("id"), value_set=pa.array(pretrain_ids, pa.string()))
    shared = overlap(corpus, np.flatnonzero(heard.to_numpy(zero_copy_only=False)), test)
    return (f"Pretraining heard {_counts(corpus, shared, test)} (without labels).",)
