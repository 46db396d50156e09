"""What is held out of training is what the test holds out of it: speakers, chapters or utterances."""

import numpy as np
import pytest

from cpc.data.corpus import Corpus
from cpc.evaluation.probes import dataset as validation
from cpc.evaluation.probes.dataset import hold_out


def names(column: list[str], rows: np.ndarray) -> set[str]:
    return {column[row] for row in rows.tolist()}


def test_whole_speakers_where_there_are_enough(chords: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = chords.rows("phone_train"), chords.rows("phone_test")
    monkeypatch.setattr(validation, "ENOUGH", 3)
    held = hold_out("phone", chords, train, test, seed=0)
    assert not names(chords.speakers, train[held.out]) & names(chords.speakers, train[~held.out])
    assert held.words == "1 of 3 training speakers"
    assert (held.out == hold_out("phone", chords, train, test, seed=0).out).all()
    others = [hold_out("phone", chords, train, test, seed=seed).out for seed in range(1, 6)]
    assert any((held.out != other).any() for other in others)


def test_utterances_where_there_are_few_speakers(chords: Corpus) -> None:
    train, test = chords.rows("phone_train"), chords.rows("phone_test")
    held = hold_out("phone", chords, train, test, seed=0)
    assert held.words == "7 of 36 training utterances"
    assert held.out.sum() == 7


def test_other_chapters_of_every_speaker_where_the_test_has_other_chapters(chords: Corpus) -> None:
    train, test = chords.rows("speaker_train"), chords.rows("speaker_test")
    held = hold_out("speaker_frame", chords, train, test, seed=0)
    assert held.words == "4 of 8 training chapters"
    for part in (train[held.out], train[~held.out]):
        assert names(chords.speakers, part) == {"s0", "s1", "s2", "s3"}
    sessions = [f"{s}/{c}" for s, c in zip(chords.speakers, chords.chapters, strict=True)]
    assert not names(sessions, train[held.out]) & names(sessions, train[~held.out])


def test_other_utterances_of_every_speaker_where_the_test_shares_chapters(chords: Corpus) -> None:
    rows = np.unique(chords.rows("speaker_train"))  # in the order of ids: four of each chapter
    train, test = np.delete(rows, np.s_[::4]), rows[::4]
    held = hold_out("speaker_utterance", chords, train, test, seed=0)
    assert held.words == "4 of 24 training utterances"
    for part in (train[held.out], train[~held.out]):
        assert names(chords.speakers, part) == {"s0", "s1", "s2", "s3"}


def test_nothing_is_held_out_of_one_utterance(chords: Corpus) -> None:
    held = hold_out("phone", chords, chords.rows("phone_train")[:1], chords.rows("phone_test"), seed=0)
    assert not held.out.any()
