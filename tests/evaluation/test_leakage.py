"""What two splits share is refused or said."""

import numpy as np
import pytest

from cpc.config import InputError
from cpc.corpus import Corpus
from cpc.evaluation.leakage import check, pretraining_note


def rows(corpus: Corpus, part: str) -> np.ndarray:
    return np.array([row for row, id in enumerate(corpus.ids) if part in id and "silent" not in id])


def test_shared_utterances_are_refused(chords: Corpus) -> None:
    with pytest.raises(InputError, match="4 of 12 utterances are trained on"):
        check("phone", chords, rows(chords, "c2"), rows(chords, "s3"))


def test_unknown_speakers_are_refused_for_speakers_alone(chords: Corpus) -> None:
    train, test = rows(chords, "s0"), rows(chords, "s3")
    assert check("phone", chords, train, test) == ()
    for task in ("speaker_frame", "speaker_utterance"):
        with pytest.raises(InputError, match="1 of 1 speakers are not in train, for example s3"):
            check(task, chords, train, test)


def test_shared_speakers_and_chapters_are_said(chords: Corpus) -> None:
    train, test = rows(chords, "c0"), rows(chords, "c1")
    assert check("phone", chords, train, test) == ("4 of 4 test speakers are trained on as well.",)
    assert check("speaker_frame", chords, train, test) == ()
    # Rows are sorted by id: the first of each speaker's 4 utterances in this chapter against the other 3.
    (note,) = check("speaker_frame", chords, np.delete(train, np.s_[::4]), train[::4])
    assert note.startswith("Training and test share 4 chapters")


def test_what_pretraining_heard_is_counted(chords: Corpus) -> None:
    test = rows(chords, "s3")
    heard = [chords.ids[row] for row in rows(chords, "s3")[:5]] + ["of-another-corpus"]
    assert pretraining_note(chords, test, None) == ()
    assert pretraining_note(chords, test, heard) == (
        "Pretraining heard 1 of 1 test speakers and 5 of 12 test utterances (without labels).",
    )
    assert pretraining_note(chords, test, [])[0].startswith("Pretraining heard 0 of 1 test speakers and 0 of 12")
