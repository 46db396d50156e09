"""Folds: every speaker is evaluated once, by a classifier that never heard them."""

from dataclasses import replace

import numpy as np
import pytest

from cpc.audio.mfcc import LogMel
from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.evaluation.features import extract_features
from cpc.evaluation.probes.probe import evaluate_folds, folds_of, probe
from cpc.evaluation.probes.protocol import ProbeProtocol, ProbeSetup, check

FIXED = ProbeProtocol(l2=(1e-3,))


def test_every_speaker_is_judged_by_the_others(chords: Corpus) -> None:
    setup, features = ProbeSetup(chords, "phone_train", "phone_test", protocol=FIXED, folds=4), LogMel()
    result = evaluate_folds(setup, "phone", features, extract_features(features, chords, setup.tested))
    everything = [*chords.rows("phone_train"), *chords.rows("phone_test")]
    assert [count.id for count in result.utterances] == sorted(chords.ids[row] for row in everything)
    # One fold by hand: the speaker s1 against the other three.
    ids = [chords.ids[row] for row in everything]
    mine, others = ([id for id in ids if id.startswith("s1") is inside] for inside in (True, False))
    alone = probe(features, chords, others, mine, "phone", protocol=FIXED)
    assert [c for c in result.utterances if c.speaker == "s1"] == list(alone.utterances)
    assert result.accuracy == sum(c.num_correct for c in result.utterances) / sum(c.total for c in result.utterances)
    assert result.speakers_low is not None
    assert result.split_slug == "phone_train_phone_test-4folds"
    assert result.train_utterances == 36


def test_speakers_are_dealt_out_evenly_by_the_seed() -> None:
    speakers = [f"s{i % 10}" for i in range(40)]
    fold = folds_of(speakers, 3, seed=0)
    assert (fold == folds_of(speakers, 3, seed=0)).all()
    assert any((fold != folds_of(speakers, 3, seed=seed)).any() for seed in (1, 2))
    members = [{speakers[i] for i in np.flatnonzero(fold == number)} for number in range(3)]
    assert sorted(map(len, members)) == [3, 3, 4]
    assert len(set.union(*members)) == 10


def test_impossible_folds_are_refused(chords: Corpus) -> None:
    setup = ProbeSetup(chords, "phone_train", "phone_test", folds=5)
    with pytest.raises(InputError, match="folds=5: must lie between 2 and 4, the number of speakers"):
        check(setup, "phone")
    with pytest.raises(InputError, match="use them for phones"):
        check(replace(setup, folds=2), "speaker_frame")
