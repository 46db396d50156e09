"""What two splits share is refused or said."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.data.pack import pack
from cpc.data.shards import Source
from cpc.evaluation.leakage import check, pretraining_note


def rows(corpus: Corpus, part: str) -> np.ndarray:
    return np.array([row for row, id in enumerate(corpus.ids) if part in id and "silent" not in id])


def test_shared_utterances_are_refused(chords: Corpus) -> None:
    with pytest.raises(InputError, match="4 of 12 utterances are trained on"):
        check("phone", chords, rows(chords, "c2"), rows(chords, "s3"))


def test_unknown_speakers_are_refused_for_speakers_alone(chords: Corpus) -> None:
    train, test = rows(chords, "s0"), rows(chords, "s3")
    assert check("phone", chords, train, test) == (
        "Training and test share 0 of 1 test speakers, 0 of 3 test chapters and 0 of 12 test utterances.",
    )
    for task in ("speaker_frame", "speaker_utterance"):
        with pytest.raises(InputError, match="1 of 1 speakers are not in train, for example s3"):
            check(task, chords, train, test)


@pytest.mark.parametrize("task", ["phone", "speaker_frame", "speaker_utterance"])
def test_speakers_chapters_and_utterances_are_said_for_every_task(chords: Corpus, task: str) -> None:
    train, test = rows(chords, "c0"), rows(chords, "c1")
    (note,) = check(task, chords, train, test)
    assert note == "Training and test share 4 of 4 test speakers, 0 of 4 test chapters and 0 of 16 test utterances."
    # Rows are sorted by id: the first of each speaker's 4 utterances in this chapter against the other 3.
    (note,) = check(task, chords, np.delete(train, np.s_[::4]), train[::4])
    assert note.startswith("Training and test share 4 of 4 test speakers, 4 of 4 test chapters and 0 of 4")
    assert ("the recording session may give the speaker away" in note) is (task != "phone")


def test_chapters_that_nobody_knows_are_not_shared_and_said(tmp_path: Path) -> None:
    names = ["a-1", "a-2", "b-1", "b-2"]
    for name in names:
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(400, np.int16), 16000)
    sources = [Source(name, tmp_path / f"{name}.wav", name[0], "7" if name == "b-2" else "") for name in names]
    pack(sources, tmp_path / "out", workers=1, progress=False)
    notes = check("speaker_frame", Corpus.open(tmp_path / "out"), np.array([0, 2]), np.array([1, 3]))
    assert notes == (
        "Training and test share 2 of 2 test speakers, 0 of 1 test chapters and 0 of 2 test utterances.",
        "1 of 2 test utterances have no chapter: whether a recording session is on both sides is not known.",
    )


def test_a_speaker_probe_needs_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(400, np.int16), 16000)
    pack([Source(n, tmp_path / f"{n}.wav", "") for n in "ab"], tmp_path / "out", workers=1, progress=False)
    corpus, one, other = Corpus.open(tmp_path / "out"), np.array([0]), np.array([1])
    assert "0 of 0 test speakers" in check("phone", corpus, one, other)[0]  # unknown is not the same speaker
    said = check("speaker_frame", corpus, one, other)
    assert "1 of 1 training and 1 of 1 test utterances have no known speaker: skipped." in said


def test_what_pretraining_heard_is_counted(chords: Corpus) -> None:
    test = rows(chords, "s3")
    heard = [chords.ids[row] for row in rows(chords, "s3-c0")] + ["of-another-corpus"]
    assert pretraining_note(chords, test, None) == ()
    assert pretraining_note(chords, test, heard) == (
        "Pretraining heard 1 of 1 test speakers, 1 of 3 test chapters and 4 of 12 test utterances (without labels).",
    )
    assert pretraining_note(chords, test, [])[0].startswith("Pretraining heard 0 of 1 test speakers, 0 of 3")
