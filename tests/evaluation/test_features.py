"""Features in padded batches are those of each utterance alone, in the order that was asked for."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cpc.audio.mfcc import MFCC39, LogMel
from cpc.config import InputError, validate
from cpc.data.corpus import Corpus
from cpc.evaluation import features as module
from cpc.evaluation.features import Features, Layer, extract, extract_features, extract_group
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


# --- Frames that were computed before.


def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of utterances of every pass over the audio from here on."""
    seen: list[int] = []
    plain = module._plan

    def counted(features: Any, corpus: Corpus, rows: Any, *rest: Any) -> Any:
        seen.append(len(rows))
        return plain(features, corpus, rows, *rest)

    monkeypatch.setattr(module, "_plan", counted)
    return seen


def test_frames_that_were_computed_come_from_disk(
    chords: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any order, whatever else is asked for, utterances without a frame among them; the layers of a model share."""
    subject, seen = model(), calls(monkeypatch)
    group = [Layer(subject, "z"), Layer(subject, "c")]
    some = np.array([4, 0, chords.row("s0-c0-silent"), 2])
    first = extract_group(group, chords, some, cache=tmp_path)
    again = extract_group(group, chords, some[::-1].copy(), cache=tmp_path)
    for before, after in zip(first, again, strict=True):
        for i in range(4):
            assert torch.equal(before.utterance(i), after.utterance(3 - i))
    more = np.array([1, 4, 3])
    mixed, plain = extract_group(group, chords, more, cache=tmp_path), extract_group(group, chords, more)
    assert seen == [4, 2, 3]
    for one, other in zip(mixed, plain, strict=True):
        assert one.offsets.tolist() == other.offsets.tolist()
        torch.testing.assert_close(one.frames, other.frames, rtol=1e-5, atol=1e-5)
    extract_group(group[1:], chords, some, cache=tmp_path)
    extract_group([MFCC39()], chords, some, cache=tmp_path)
    assert seen == [4, 2, 3, 4]  # another front end is another file, and c alone is known
    torch.manual_seed(1)
    extract_group([Layer(model("batch"), "c")], chords, some, cache=tmp_path)
    assert seen[-1] == 4  # as are other weights
    extract_group(group, chords, some, last_of=2000, cache=tmp_path)
    assert len(seen) == 6  # and windows


def test_what_is_damaged_is_computed_again(chords: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, rows, group = calls(monkeypatch), np.arange(3), [MFCC39()]
    (whole,) = extract_group(group, chords, rows, cache=tmp_path)
    (frames,) = tmp_path.glob("*.frames")
    frames.write_bytes(frames.read_bytes()[:-4])
    (found,) = extract_group(group, chords, np.arange(4), cache=tmp_path)
    torch.testing.assert_close(found.utterance(1), whole.utterance(1))
    frames.with_suffix(".json").write_text("{")  # nothing is known, and what lies there is written over
    extract_group(group, chords, rows, cache=tmp_path)
    (kept,) = extract_group(group, chords, rows, cache=tmp_path)
    assert torch.equal(kept.frames, whole.frames)
    frames.write_bytes(frames.read_bytes() + b"left by a killed process")
    (longer,) = extract_group(group, chords, np.arange(5), cache=tmp_path)
    (once_more,) = extract_group(group, chords, np.arange(5), cache=tmp_path)
    assert torch.equal(once_more.frames, longer.frames)
    assert seen == [3, 4, 3, 2]


def test_what_was_used_longest_ago_makes_room(chords: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what does not fit even then is not kept, and does not drive others out."""
    rows, files, subjects = np.arange(3), {}, {"mfcc": MFCC39(), "mel": LogMel()}
    for name, features in subjects.items():
        before = set(tmp_path.glob("*.frames"))
        extract_group([features], chords, rows, cache=tmp_path)
        (files[name],) = set(tmp_path.glob("*.frames")) - before
    extract_group([subjects["mfcc"]], chords, rows, cache=tmp_path)  # the last to be used
    monkeypatch.setattr(module, "MOST_BYTES", sum(file.stat().st_size for file in files.values()) + 1)
    extract_group([Layer(model(), "c")], chords, rows, cache=tmp_path)
    assert files["mfcc"].exists()
    assert not files["mel"].exists()
    kept = {file: file.stat().st_size for file in tmp_path.glob("*.frames")}
    assert len(kept) == 2
    monkeypatch.setattr(module, "MOST_BYTES", 1)
    (found,) = extract_group([subjects["mel"]], chords, rows, cache=tmp_path)
    assert len(found) == 3
    assert {file: file.stat().st_size for file in tmp_path.glob("*.frames")} == kept


def test_a_cache_that_cannot_be_written_is_done_without(chords: Corpus, tmp_path: Path) -> None:
    (tmp_path / "features").write_text("no folder")
    with pytest.warns(UserWarning, match="features are not kept for the next evaluation"):
        (found,) = extract_group([MFCC39()], chords, np.arange(3), cache=tmp_path / "features")
    assert len(found) == 3


def test_a_cache_takes_no_more_than_half_of_what_is_free(
    chords: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1000))
    extract_group([MFCC39()], chords, np.arange(3), cache=tmp_path)
    assert not list(tmp_path.glob("*.frames"))
