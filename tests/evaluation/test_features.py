"""Features in padded batches are those of each utterance alone, in the order that was asked for."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from cpc.audio.mfcc import MFCC39, LogMel
from cpc.config import InputError, validate
from cpc.data.corpus import Corpus
from cpc.evaluation.features import Features, Layer, extract, extract_features
from cpc.models.cpc import CPC, ModelConfig, build


def model(norm: str = "channel") -> CPC:
    settings = {"encoder": {"channels": 16, "norm": norm}, "context": {"hidden": 12}}
    return build(validate(ModelConfig, settings), seed=1)


SUBJECTS: dict[str, Callable[[], Features]] = {
    "mfcc": MFCC39,
    "logmel": LogMel,
    "z": lambda: Layer(model(), "z"),
    "c": lambda: Layer(model("none"), "c"),
    "c, batch norm": lambda: Layer(model("batch").train(), "c"),
}


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("batch_samples", [1, 60_000, 1 << 20])
def test_batches_equal_one_by_one(chords: Corpus, subject: str, batch_samples: int) -> None:
    features = SUBJECTS[subject]()
    rows = np.random.default_rng(0).permutation(len(chords))[:15]
    table = extract_features(features, chords, rows, batch_samples=batch_samples)
    if isinstance(features, Layer):
        features.model.eval()
    for i, row in enumerate(rows.tolist()):
        waveform = torch.from_numpy(chords.waveform(row).astype(np.float32) / 2**15)[None]
        if features.frames(waveform.shape[1]) == 0:
            assert len(table.utterance(i)) == 0
            continue
        with torch.inference_mode():
            torch.testing.assert_close(table.utterance(i), features(waveform)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("subject", ["mfcc", "z", "c"])
def test_the_last_frame_of_each_window_comes_from_the_window_alone(chords: Corpus, subject: str) -> None:
    features, window = SUBJECTS[subject](), 9000
    rows = np.array([chords.row("s1-c0-01"), chords.row("s0-c0-silent"), chords.row("s2-c0-02")])
    table = extract_features(features, chords, rows, last_of=window)
    # An utterance of n samples has ⌊n/window⌋ windows, one if it is shorter, and none where no frame fits in.
    assert table.counts.tolist() == [int(chords.samples[rows[0]]) // window, 0, int(chords.samples[rows[2]]) // window]
    for place in (0, 2):
        for number, frame in enumerate(table.utterance(place)):
            pcm = chords.waveform(int(rows[place]), number * window, (number + 1) * window)
            with torch.inference_mode():
                alone = features(torch.from_numpy(pcm.astype(np.float32) / 2**15)[None])[0, -1]
            torch.testing.assert_close(frame, alone, atol=1e-5, rtol=1e-5)
    longer = extract_features(features, chords, rows, last_of=10**6)
    whole = extract_features(features, chords, rows)
    assert longer.counts.tolist() == [1, 0, 1]
    torch.testing.assert_close(longer.utterance(0)[0], whole.utterance(0)[-1], atol=1e-5, rtol=1e-5)


def test_an_utterance_too_short_for_a_frame_has_none(chords: Corpus) -> None:
    rows = np.array([chords.row("s1-c0-01"), chords.row("s0-c0-silent"), chords.row("s2-c0-02")])
    counts = extract_features(MFCC39(), chords, rows).counts
    assert counts[1] == 0
    assert counts[0] > 0 < counts[2]


def test_both_layers_come_from_one_pass(chords: Corpus) -> None:
    subject, rows = model(), np.arange(6)
    both = extract(subject, chords, rows)
    assert list(both) == ["z", "c"]
    assert both["z"].frames.shape[1] == 16
    assert both["c"].frames.shape[1] == 12
    for layer in ("z", "c"):
        alone = extract_features(Layer(subject, layer), chords, rows)
        torch.testing.assert_close(both[layer].frames, alone.frames)


def test_the_model_keeps_its_mode(chords: Corpus) -> None:
    subject = model("batch").train()
    before = {name: value.clone() for name, value in subject.state_dict().items()}
    extract(subject, chords, np.arange(4))
    assert subject.training
    assert all(torch.equal(value, before[name]) for name, value in subject.state_dict().items())


def test_settings_tell_models_apart() -> None:
    one, other = (Layer(build(ModelConfig(), seed), "c") for seed in (0, 1))
    assert one.settings == Layer(build(ModelConfig(), 0), "c").settings
    assert one.settings != other.settings
    assert one.settings != Layer(one.model, "z").settings
    assert one.name == "CPC c"


def test_another_sample_rate_is_refused(chords: Corpus) -> None:
    settings = {"encoder": {"channels": 4}, "context": {"hidden": 4}, "sample_rate": 8000}
    subject = build(validate(ModelConfig, settings), 0)
    with pytest.raises(InputError, match="16000 Hz where CPC z needs 8000"):
        extract(subject, chords, np.arange(2))
