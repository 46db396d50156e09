"""The supervised topline learns end to end, keeps what did best on what was held out, and repeats with its seed."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cpc.config import InputError, validate
from cpc.data.corpus import Corpus
from cpc.evaluation.probes.protocol import ProbeProtocol, ProbeSetup
from cpc.evaluation.results import ProbeTask
from cpc.models.cpc import ModelConfig
from cpc.scale import topline as module
from cpc.scale.topline import Topline, topline
from cpc.training.optim import learning_rate

SMALL = validate(ModelConfig, {"encoder": {"channels": 24, "norm": "channel"}, "context": {"hidden": 24}})
QUICK = Topline(
    max_steps=60, batch_size=4, window_size=8000, lr=3e-3, warmup_steps=10, validate_every=30, validate_batches=4
)


def test_it_learns_what_the_labels_say(chords: Corpus, tmp_path: Path) -> None:
    setup, said = ProbeSetup(chords, "phone_train", "phone_test"), []
    longer = replace(QUICK, max_steps=320, validate_every=64)
    result = topline(setup, "phone", SMALL, longer, tmp_path, said.append)
    assert result.accuracy > result.majority + 0.2
    assert (result.features, result.classifier) == ("supervised", "end_to_end")
    assert len(result.utterances) == 12
    assert [line.split(",")[0] for line in said] == [f"supervised: step {step}" for step in range(64, 321, 64)]
    assert any(
        "before the held-out accuracy stopped rising" in note for note in result.notes
    )  # five validations are too few
    # Found again, and nothing is trained.
    assert topline(setup, "phone", SMALL, longer, tmp_path, said.append) == result
    assert len(said) == 5


def test_speakers_and_seeds(chords: Corpus) -> None:
    few = replace(QUICK, max_steps=10, validate_every=5)
    setup = ProbeSetup(chords, "speaker_train", "speaker_test")
    one, same = (topline(setup, "speaker_frame", SMALL, few) for _ in range(2))
    assert one == same
    other = topline(replace(setup, protocol=ProbeProtocol(seed=1)), "speaker_frame", SMALL, few)
    assert other.accuracy != one.accuracy
    assert one.classes == 4


@pytest.mark.parametrize("task", ["phone", "speaker_frame"])
def test_labels_are_those_of_the_frames_and_nothing_that_is_held_out_is_trained_on(
    chords: Corpus, task: ProbeTask
) -> None:
    setup = ProbeSetup(chords, "phone_train", "phone_test")
    trainer, _ = module._start(setup, task, SMALL, QUICK, setup.rows("phone_train"))
    rows, starts = trainer.windows.draw(7)
    for step, waveform in trainer.windows.batches(7, 8, trainer.device):
        labels = trainer.labelled(trainer.windows, step, waveform).labels
    assert labels is not None
    alignment = chords.labels("phones")
    for row, start, own in zip(rows.tolist(), starts.tolist(), labels.tolist(), strict=True):
        intervals = alignment.intervals(chords.ids[row])
        for frame, label in enumerate(own):
            second = start / 16000 + trainer.model.frame_centres(len(own))[frame]
            inside = (intervals.onsets <= second) & (second < intervals.offsets)
            phone = intervals.labels[inside].tolist()
            speaker = [sorted(set(chords.speakers)).index(chords.speakers[row])]
            assert [label] == (phone if task == "phone" else speaker)
    assert trainer.valid
    held = {chords.ids[row] for row in trainer.valid.rows}
    learnt = {chords.ids[row] for row in trainer.windows.rows}
    assert not held & learnt
    assert not (held | learnt) & {chords.ids[row] for row in chords.rows("phone_test")}


def test_what_it_cannot_do_is_refused(chords: Corpus) -> None:
    setup = ProbeSetup(chords, "phone_train", "phone_test")
    with pytest.raises(InputError, match="give phone or speaker_frame"):
        topline(setup, "phone_sequence", SMALL)
    with pytest.raises(InputError, match="none of the"):
        topline(setup, "phone", SMALL, replace(QUICK, window_size=10**6))
    with pytest.raises(InputError, match=r"topline.max_steps=0"):
        Topline(max_steps=0)


def test_the_rate_rises_and_falls_to_zero(chords: Corpus) -> None:
    recipe = QUICK.recipe(ProbeSetup(chords, "phone_train", "phone_test"), "phone", SMALL)
    rates = [learning_rate(recipe.optim, step, recipe.training.max_steps) for step in range(QUICK.max_steps)]
    assert rates[0] == pytest.approx(QUICK.lr / 11)
    assert max(rates) == pytest.approx(QUICK.lr)
    assert rates.index(max(rates)) == 10
    assert rates[-1] < 0.01 * QUICK.lr


@pytest.mark.parametrize(
    ("accuracies", "converged"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], False),
        ([0.1, 0.3, 0.4, 0.5, 0.55, 0.56, 0.555, 0.56], True),
        ([0.1, 0.5, 0.5], False),  # too few to say
    ],
)
def test_converged_is_when_nothing_rises(accuracies: list[float], converged: bool) -> None:
    best = module._Best([], {})
    for step, accuracy in enumerate(accuracies):
        network = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(network.bias, step)
        best.add(accuracy, network)
    assert best.converged == converged
    assert best.weights["bias"].item() == accuracies.index(max(accuracies))
