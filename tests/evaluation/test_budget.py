"""Few labels: nested shares of the utterances, drawn by a seed."""

from itertools import pairwise

import numpy as np
import pytest

from cpc.audio.mfcc import LogMel
from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.evaluation.probes.dataset import labelled
from cpc.evaluation.probes.probe import probe
from cpc.evaluation.probes.protocol import ProbeProtocol


def test_a_larger_budget_holds_the_smaller(chords: Corpus) -> None:
    rows = chords.rows("phone_train")
    kept = [labelled("phone", chords, rows, percent, 0) for percent in (0.1, 10.0, 50.0, 100.0)]
    assert [int(mask.sum()) for mask in kept] == [1, 4, 18, 36]  # ⌈percent of 36⌉
    for small, large in pairwise(kept):
        assert not (small & ~large).any()
    assert (labelled("phone", chords, rows, 10.0, 0) == kept[1]).all()
    assert (labelled("phone", chords, rows, 10.0, 1) != kept[1]).any()
    # A split is a set: the order of its rows does not matter.
    back = labelled("phone", chords, rows[::-1].copy(), 50.0, 0)
    assert (back[::-1] == kept[2]).all()


def test_every_speaker_comes_before_any_second_time(chords: Corpus) -> None:
    rows = chords.rows("speaker_train")
    for percent, each in ((12.5, 1), (25.0, 2)):  # of 32 utterances
        kept = rows[labelled("speaker_frame", chords, rows, percent, 0)]
        speakers = [chords.speakers[row] for row in kept]
        assert {name: speakers.count(name) for name in set(speakers)} == dict.fromkeys(("s0", "s1", "s2", "s3"), each)


def test_a_probe_uses_these_labels_alone(chords: Corpus) -> None:
    rows = np.unique(chords.rows("phone_train"))
    kept = rows[labelled("phone", chords, rows, 20.0, 0)]
    ids = [chords.ids[row] for row in kept]
    some = probe(LogMel(), chords, "phone_train", "phone_test", "phone", protocol=ProbeProtocol(budget=20.0))
    alone = probe(LogMel(), chords, ids, "phone_test", "phone")
    assert some.accuracy == alone.accuracy
    assert some.train_utterances == len(ids) == 8
    assert some.budget == 20
    assert "20% of the training utterances labelled" in some.protocol
    assert "20%" not in alone.protocol


def test_one_utterance_is_trained_on_without_a_choice(chords: Corpus) -> None:
    result = probe(LogMel(), chords, "phone_train", "phone_test", "phone", protocol=ProbeProtocol(budget=0.1))
    assert result.train_utterances == 1
    assert "chosen on" not in result.protocol
    assert result.accuracy > result.majority
    with pytest.raises(InputError, match="hidden layer is stopped by held-out utterances"):
        probe(LogMel(), chords, "phone_train", "phone_test", "phone", protocol=ProbeProtocol("mlp", budget=0.1))


def test_impossible_choices_are_named_together() -> None:
    with pytest.raises(InputError) as error:
        ProbeProtocol(budget=0.0, context=-1, l2=())
    assert [line.split(":")[0] for line in str(error.value).splitlines()] == ["context=-1", "budget=0", "l2=()"]
