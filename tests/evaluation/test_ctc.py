"""Phone error rate: true labels give none, noise gives much, and repetitions and blanks are what CTC says they are."""

import numpy as np
import pytest
import torch
from torch import nn

from cpc.audio.mfcc import MFCC39
from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.evaluation.features import FrameTable
from cpc.evaluation.phones import silent_classes
from cpc.evaluation.probes.phoneme_recognition import SequenceClassifier, edits, sequences
from cpc.evaluation.probes.probe import evaluate
from cpc.evaluation.probes.protocol import ProbeProtocol, ProbeSetup


def tables(corpus: Corpus, setup: ProbeSetup, noise: bool = False) -> list[FrameTable]:
    """The true phone, one-hot, at the first frame of each and nothing at the others; or noise that knows nothing."""
    clock, alignment, found = MFCC39(), corpus.labels("phones"), []
    for split in (setup.train, setup.test):
        rows = setup.rows(split)
        counts = [clock.frames(int(n)) for n in corpus.samples[rows]]
        labels = [
            alignment.frames(corpus.ids[row], clock.frame_centres(n)) for row, n in zip(rows, counts, strict=True)
        ]
        first = np.concatenate([np.diff(each, prepend=-1) != 0 for each in labels])
        frames = torch.nn.functional.one_hot(torch.from_numpy(np.concatenate(labels)), 6).float()
        frames[~torch.from_numpy(first)] = 0
        if noise:
            frames = torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
        found.append(FrameTable(frames, np.concatenate([[0], np.cumsum(counts)])))
    return found


def test_true_phones_give_hardly_any_errors(chords: Corpus) -> None:
    """Hardly: an output of the layer may see the beginnings of two short phones, and says one of them."""
    setup = ProbeSetup(chords, "phone_train", "phone_test")
    result = evaluate(setup, "phone_sequence", MFCC39(), *tables(chords, setup))
    assert result.error < 0.02
    assert result.low > 0.95
    assert result.high == 1
    phones = sum(len(chords.labels("phones").intervals(chords.ids[row]).labels) for row in setup.rows("phone_test"))
    assert result.test_examples == phones
    assert "CTC" in result.protocol


def test_noise_gives_many(chords: Corpus) -> None:
    setup = ProbeSetup(chords, "phone_train", "phone_test")
    result = evaluate(setup, "phone_sequence", MFCC39(), *tables(chords, setup, noise=True))
    assert result.error > 0.6


def test_the_best_path_is_collapsed() -> None:
    layer = nn.Conv1d(3, 3, 1, bias=False)
    layer.weight.data = torch.eye(3)[:, :, None]
    model = SequenceClassifier(layer, torch.zeros(3), torch.ones(3), 0, True)
    path = [0, 1, 1, 0, 1, 2, 2, 2, 0, 0]  # blank a a blank a b b b blank blank
    assert model.decode(torch.eye(3)[path]).tolist() == [1, 1, 2]
    assert model.decode(torch.eye(3)[[0, 0]]).tolist() == []


@pytest.mark.parametrize("step", [1, 3, 4])
def test_an_utterance_in_a_batch_has_the_outputs_that_it_has_alone(step: int) -> None:
    generator = torch.Generator().manual_seed(0)
    frames = [torch.randn(n, 5, generator=generator) + 3 for n in (40, 23, 7, 1)]
    layer = nn.Conv1d(5, 4, 2 * step, stride=step, padding=step // 2)
    model = SequenceClassifier(layer, torch.full((5,), 3.0), torch.ones(5), 0, True)
    together = model(frames)
    for row, each in zip(together, frames, strict=True):
        count = model.outputs(len(each))
        alone = model([each])[0]
        assert len(alone) == count
        torch.testing.assert_close(row[:count], alone)
    assert [model.outputs(n) for n in (40, 1)] == [40 // step if step != 1 else 39, 1]


def test_edits_are_counted() -> None:
    reference = np.array([1, 2, 3, 4])
    for found, expected in (([1, 2, 3, 4], 0), ([], 4), ([1, 3, 4], 1), ([2, 2, 3, 4, 4], 2), ([9, 1, 2, 3, 4], 1)):
        assert edits(reference, np.array(found, dtype=np.int64)) == expected


def test_silences_are_no_phones(chords: Corpus) -> None:
    assert silent_classes(["SIL", "AA", "sp", "B", "spn", "NSN"]) == [0, 2, 4, 5]
    assert silent_classes(["0", "1", "2"]) == [0]  # the CPC paper's labels have numbers for names
    assert silent_classes(["AA", "B"]) == []
    assert silent_classes(["SIL", "AA", "B"], ["aa"]) == [1]  # named by the user
    setup = ProbeSetup(chords, "phone_train", "phone_test")
    rows = np.append(setup.rows("phone_test")[:2], chords.row("s0-c0-silent"))
    found = sequences(setup, rows, FrameTable(torch.zeros(10, 2), np.array([0, 5, 10, 10])))
    assert found.places == [0, 1]
    assert found.phones[0].tolist() == (chords.labels("phones").intervals(chords.ids[rows[0]]).labels + 1).tolist()


def test_choices_that_are_not_its_own_are_refused(chords: Corpus) -> None:
    setup = ProbeSetup(chords, "phone_train", "phone_test", protocol=ProbeProtocol("mlp"))
    with pytest.raises(InputError, match="leave it at linear"):
        evaluate(setup, "phone_sequence", MFCC39(), *tables(chords, setup))


def test_features_are_standardised_by_utterances_of_all_speakers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids come in the order of speakers: the first thousand would be of a few of them."""
    from cpc.evaluation.probes import phoneme_recognition as ctc

    monkeypatch.setattr(ctc, "MOST_STANDARDISED", 50)
    frames = torch.arange(500.0)[:, None].repeat_interleave(4, 0)  # utterance i of four frames says i
    table = FrameTable(frames, np.arange(501) * 4)
    train = ctc.Sequences(table, list(range(500)), [np.array([1, 2])] * 500)
    found, again, other = (ctc._untrained(train, 2, 1, seed, "cpu").mean for seed in (0, 0, 1))
    assert torch.equal(found, again)
    assert not torch.equal(found, other)
    assert abs(float(found) - 249.5) < 100  # of the first 50 it would be 24.5
