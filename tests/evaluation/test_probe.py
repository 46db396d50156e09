"""What a probe must say about features of which the truth is known."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cpc.audio.mfcc import HOP, MFCC39, SAMPLE_RATE, LogMel
from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.evaluation.features import FrameTable, extract_features
from cpc.evaluation.probes import mlp
from cpc.evaluation.probes import probe as probe_module
from cpc.evaluation.probes.linear import Fitting
from cpc.evaluation.probes.probe import FittedProbe, evaluate, probe, train_classifier
from cpc.evaluation.probes.protocol import GRID, ProbeProtocol, ProbeSetup
from cpc.evaluation.results import ProbeResult


class Shifted(LogMel):
    """Log-mel frames that claim to be `shift` frames later than they are."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.shift = shift

    def frame_centres(self, n_frames: int) -> np.ndarray:
        return super().frame_centres(n_frames) + self.shift * HOP / SAMPLE_RATE


def phone(corpus: Corpus, features: MFCC39 | LogMel, **options: object) -> ProbeResult:
    return probe(features, corpus, "phone_train", "phone_test", "phone", **options)  # type: ignore[arg-type]


def test_true_labels_as_features_reach_100_percent(chords: Corpus) -> None:
    setup, clock = ProbeSetup(chords, "phone_train", "phone_test"), MFCC39()
    alignment, tables = chords.labels("phones"), []
    for split in ("phone_train", "phone_test"):
        rows = setup.rows(split)
        counts = [clock.frames(int(n)) for n in chords.samples[rows]]
        labels = [
            alignment.frames(chords.ids[row], clock.frame_centres(n)) for row, n in zip(rows, counts, strict=True)
        ]
        one_hot = torch.nn.functional.one_hot(torch.from_numpy(np.concatenate(labels)), 6).float()
        tables.append(FrameTable(one_hot, np.concatenate([[0], np.cumsum(counts)])))
    result = evaluate(setup, "phone", clock, *tables)
    assert (result.accuracy, result.low, result.high) == (1.0, 1.0, 1.0)
    assert result.classes == 6


def test_labels_of_other_utterances_are_worth_the_majority_class(chords: Corpus) -> None:
    result = phone(chords, MFCC39(), labels="shuffled")
    assert result.accuracy == pytest.approx(result.majority, abs=0.05)
    assert phone(chords, MFCC39()).accuracy > 3 * result.majority


def test_frames_out_of_step_with_their_labels_lose(chords: Corpus) -> None:
    # A chord lasts 8 frames on average, so that a shift of 2 gives a quarter of the frames to a neighbour.
    accuracy = {shift: phone(chords, Shifted(shift)).accuracy for shift in (-2, -1, 0, 1, 2)}
    assert accuracy[0] > max(accuracy[-1], accuracy[1]) > max(accuracy[-2], accuracy[2])
    assert accuracy[0] - max(accuracy[-2], accuracy[2]) > 0.1
    # Right, not merely within a frame: early and late cost about the same.
    assert abs(accuracy[-1] - accuracy[1]) < 0.5 * (accuracy[0] - min(accuracy[-1], accuracy[1]))


def test_the_test_set_has_no_part_in_any_choice(chords: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def keeping(*given: object) -> FittedProbe:
        trained.append(train_classifier(*given))  # type: ignore[arg-type]
        return trained[-1]

    monkeypatch.setattr(probe_module, "train_classifier", keeping)
    splits = [("phone_train", "phone_test"), ("phone_train", chords.ids[-3:-1])]
    results = [probe(LogMel(), chords, train, test, "phone") for train, test in splits]
    assert results[0].utterances != results[1].utterances
    assert torch.equal(trained[0].classifier.weight, trained[1].classifier.weight)
    assert trained[0].choice == trained[1].choice
    assert results[0].l2 in GRID
    assert "chosen on 7 of 36 training utterances (log-likelihood there" in results[0].protocol


def test_a_hidden_layer_keeps_the_laws(chords: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlp, "ROUND", (20, 20))
    protocol = ProbeProtocol("mlp", hidden=64)
    right, wrong = (phone(chords, MFCC39(), labels=labels, protocol=protocol) for labels in ("phones", "shuffled"))
    assert right.accuracy > 0.9
    assert wrong.accuracy == pytest.approx(wrong.majority, abs=0.06)
    assert right == phone(chords, MFCC39(), protocol=protocol)
    assert (right.column, right.l2) == ("phone_mlp", None)
    assert "one hidden layer of 64 ReLU units" in right.protocol
    assert right.train_utterances == 36
    assert right.train_examples < phone(chords, MFCC39(), protocol=ProbeProtocol(l2=(1e-3,))).train_examples


def test_frames_beside_a_frame_help(chords: Corpus) -> None:
    fixed = ProbeProtocol(l2=(1e-3,))
    alone, beside = (
        phone(chords, Shifted(3), protocol=replace(fixed, context=context)) for context in (0, 4)
    )  # fmt: skip
    assert beside.accuracy > alone.accuracy + 0.2  # the right frame is among the neighbours
    assert beside.features == "log-mel ±4"
    assert "with 4 frames on either side" in beside.protocol
    with pytest.raises(InputError, match="speaker_utterance does not evaluate single frames"):
        probe(LogMel(), chords, "speaker_train", "speaker_test", "speaker_utterance", protocol=ProbeProtocol(context=1))


def test_speakers_have_three_numbers(chords: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "WINDOW", 8000)
    result = probe(LogMel(), chords, "speaker_train", "speaker_test", "speaker_last")
    rows = chords.rows("speaker_test")
    assert result.test_examples == sum(int(n) // 8000 for n in chords.samples[rows])
    assert result.accuracy > 0.8
    assert "the last frame of each window" in result.protocol
    assert {count.speaker for count in result.utterances} == {"s0", "s1", "s2", "s3"}
    assert result.speakers_low is not None


def test_speakers_are_known_by_their_hum(chords: Corpus) -> None:
    frame, utterance = (
        probe(LogMel(), chords, "speaker_train", "speaker_test", task)
        for task in ("speaker_frame", "speaker_utterance")
    )
    assert frame.classes == utterance.classes == 4
    assert frame.accuracy > 0.9
    assert utterance.accuracy > 0.8  # one of 16 is 0.06
    assert (utterance.train_examples, utterance.test_examples) == (32, 16)
    assert frame.test_examples > 16 * 90
    assert "every frame" in frame.protocol
    assert "mean over each utterance" in utterance.protocol


def test_majority_and_counts_are_those_of_the_test_set(chords: Corpus) -> None:
    result = probe(LogMel(), chords, "speaker_train", "speaker_test", "speaker_frame")
    rows, clock = chords.rows("speaker_test"), LogMel()
    frames: dict[str, int] = {}
    for row in rows.tolist():
        frames[chords.speakers[row]] = frames.get(chords.speakers[row], 0) + clock.frames(int(chords.samples[row]))
    assert result.test_examples == sum(frames.values())
    assert result.majority == pytest.approx(max(frames.values()) / sum(frames.values()))
    assert result.low <= result.accuracy <= result.high


def test_the_same_seed_gives_the_same_result(chords: Corpus) -> None:
    assert phone(chords, MFCC39()) == phone(chords, MFCC39())


def test_the_size_of_batches_does_not_matter(chords: Corpus) -> None:
    setup, results = ProbeSetup(chords, "phone_train", "phone_test"), []
    for size in (1, 1 << 20):
        tables = [
            extract_features(MFCC39(), chords, setup.rows(split), batch_samples=size)
            for split in ("phone_train", "phone_test")
        ]
        results.append(evaluate(setup, "phone", MFCC39(), *tables))
    assert math.isclose(results[0].accuracy, results[1].accuracy, abs_tol=1e-3)


def test_a_split_is_a_set(chords: Corpus) -> None:
    ids = [chords.ids[row] for row in chords.rows("phone_train")]
    listed = probe(MFCC39(), chords, [*ids[::-1], ids[3]], "phone_test", "phone")
    assert replace(listed, train="phone_train") == phone(chords, MFCC39())


def test_utterances_without_labels_are_left_out_and_said(chords: Corpus) -> None:
    ids = [chords.ids[row] for row in chords.rows("phone_train")]
    result = probe(MFCC39(), chords, [*ids, "s0-c0-silent"], "phone_test", "phone")
    assert "1 of 37 training utterances have no labelled frame." in result.notes
    assert result.train_utterances == 36


def test_a_classifier_that_stopped_early_is_noted(chords: Corpus) -> None:
    result = phone(chords, MFCC39(), protocol=ProbeProtocol(fitting=Fitting(max_iterations=3)))
    assert not result.converged
    assert any("did not converge" in note for note in result.notes)


def test_unfit_tasks_are_refused(chords: Corpus) -> None:
    with pytest.raises(InputError, match="labels=words"):
        phone(chords, MFCC39(), labels="words")
    with pytest.raises(InputError, match="needs at least two classes"):
        probe(MFCC39(), chords, ["s0-c0-00"], ["s0-c1-04"], "speaker_frame")


def test_a_result_survives_the_disk(chords: Corpus, tmp_path: Path) -> None:
    result = phone(chords, MFCC39())
    path = tmp_path / "deep" / "result.json"
    result.write(path)
    assert ProbeResult.read(path) == result
    text = path.read_text().splitlines()
    assert sum(line.startswith("  [") for line in text) == len(result.utterances) == 12  # one line an utterance
    with pytest.raises(InputError, match="accuracy, luck missing or unknown"):
        ProbeResult.from_dict({"luck": 1} | {k: v for k, v in result.to_dict().items() if k != "accuracy"})
