"""The supervised topline learns end to end, keeps what did best on what was held out, and repeats with its seed."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cpc.config import InputError, validate
from cpc.data.corpus import Corpus
from cpc.evaluation import topline as module
from cpc.evaluation.probes.protocol import ProbeProtocol, Trial
from cpc.evaluation.topline import Topline, topline
from cpc.models.cpc import ModelConfig, build

SMALL = validate(ModelConfig, {"encoder": {"channels": 24, "norm": "channel"}, "context": {"hidden": 24}})
QUICK = Topline(steps=60, batch=4, samples=8000, lr=3e-3, warmup=10, look=30, looked_at=4)


def test_it_learns_what_the_labels_say(chords: Corpus, tmp_path: Path) -> None:
    trial, said = Trial(chords, "phone_train", "phone_test"), []
    longer = replace(QUICK, steps=320, look=64)
    result = topline(trial, "phone", SMALL, longer, tmp_path, said.append)
    assert result.accuracy > result.majority + 0.2
    assert (result.features, result.classifier) == ("supervised", "end_to_end")
    assert len(result.utterances) == 12
    assert [line.split(",")[0] for line in said] == [f"supervised: step {step}" for step in range(64, 321, 64)]
    assert any("before the held-out accuracy stopped rising" in note for note in result.notes)  # five looks are too few
    # Found again, and nothing is trained.
    assert topline(trial, "phone", SMALL, longer, tmp_path, said.append) == result
    assert len(said) == 5


def test_speakers_and_seeds(chords: Corpus) -> None:
    few = replace(QUICK, steps=10, look=5)
    trial = Trial(chords, "speaker_train", "speaker_test")
    one, same = (topline(trial, "speaker_frame", SMALL, few) for _ in range(2))
    assert one == same
    other = topline(replace(trial, protocol=ProbeProtocol(seed=1)), "speaker_frame", SMALL, few)
    assert other.accuracy != one.accuracy
    assert one.classes == 4


def test_targets_are_the_labels_of_the_frames(chords: Corpus) -> None:
    trial = Trial(chords, "phone_train", "phone_test")
    targets, course = module._prepare(trial, "phone", SMALL, QUICK)
    rows, starts = course.train.draw(7)
    labels, model = targets.of(course.train, 7, course.model).numpy(), build(SMALL)
    alignment = chords.labels("phones")
    for row, start, own in zip(rows.tolist(), starts.tolist(), labels, strict=True):
        intervals = alignment.intervals(chords.ids[row])
        for frame, label in enumerate(own):
            second = start / 16000 + model.frame_centres(len(own))[frame]
            inside = (intervals.onsets <= second) & (second < intervals.offsets)
            assert [label] == targets.classes[intervals.labels[inside]].tolist()
    held = {chords.ids[row] for row in course.held.rows}
    assert not held & {chords.ids[row] for row in course.train.rows}
    assert not (held | {chords.ids[row] for row in course.train.rows}) & {
        chords.ids[row] for row in chords.rows("phone_test")
    }


def test_what_it_cannot_do_is_refused(chords: Corpus) -> None:
    trial = Trial(chords, "phone_train", "phone_test")
    with pytest.raises(InputError, match="give phone or speaker_frame"):
        topline(trial, "phone_sequence", SMALL)
    with pytest.raises(InputError, match="none of the"):
        topline(trial, "phone", SMALL, replace(QUICK, samples=10**6))
    with pytest.raises(InputError, match=r"topline.steps=0"):
        Topline(steps=0)


def test_the_rate_rises_and_falls_to_zero() -> None:
    rates = [QUICK.lr_at(step) for step in range(QUICK.steps)]
    assert rates[0] == pytest.approx(QUICK.lr / 10)
    assert max(rates) == pytest.approx(QUICK.lr)
    assert rates.index(max(rates)) == 9
    assert rates[-1] < 0.01 * QUICK.lr


@pytest.mark.parametrize(
    ("accuracies", "settled"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], False),
        ([0.1, 0.3, 0.4, 0.5, 0.55, 0.56, 0.555, 0.56], True),
        ([0.1, 0.5, 0.5], False),  # too few looks to say
    ],
)
def test_settled_is_when_nothing_rises(accuracies: list[float], settled: bool) -> None:
    looks = module._Looks([], {})
    for step, accuracy in enumerate(accuracies):
        network = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(network.bias, step)
        looks.take(accuracy, network)
    assert looks.settled == settled
    assert looks.best["bias"].item() == accuracies.index(max(accuracies))
