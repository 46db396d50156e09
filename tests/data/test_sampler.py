"""Windows: inside one utterance, drawn by duration, a pure function of (seed, step)."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.data.sampler import WindowConfig, WindowSampler, to_float

CPU = torch.device("cpu")


def windows(
    corpus: Corpus, seed: int = 0, samples: int = 8000, batch: int = 16, one_speaker: bool = False
) -> WindowSampler:
    return WindowSampler(corpus, np.arange(len(corpus)), WindowConfig(samples, batch, one_speaker), seed)


def test_a_window_lies_inside_one_utterance_and_is_its_audio(tones: Path) -> None:
    corpus = Corpus.open(tones)
    given = windows(corpus)
    rows, starts = given.draw(3)
    batch = given.read(3)
    for row, start, window in zip(rows, starts, batch, strict=True):
        assert 0 <= start <= corpus.samples[row] - 8000
        np.testing.assert_array_equal(window.numpy(), corpus.waveform(int(row), int(start), int(start) + 8000))


def test_step_and_seed_decide(tones: Path) -> None:
    corpus = Corpus.open(tones)
    assert torch.equal(windows(corpus).read(5), windows(corpus).read(5))
    assert not torch.equal(windows(corpus).read(5), windows(corpus).read(6))
    assert not torch.equal(windows(corpus).read(5), windows(corpus, seed=1).read(5))


def test_batches_begin_anywhere(tones: Path) -> None:
    given = windows(Corpus.open(tones))
    whole = dict(given.batches(0, 7, CPU))
    part = dict(given.batches(4, 7, CPU))
    assert list(whole) == [*range(7)]
    assert list(part) == [4, 5, 6]
    assert all(torch.equal(part[step], whole[step]) for step in part)
    assert whole[0].dtype == torch.float32
    assert whole[0].abs().max() <= 1


def test_a_part_is_those_windows_of_the_whole_batch(tones: Path) -> None:
    """Whatever order they are asked for in: as many processes as there may be see one batch together."""
    corpus, part = Corpus.open(tones), np.array([9, 2, 3])
    config = WindowConfig(8000, 16, same_speaker_batches=True)
    whole = WindowSampler(corpus, np.arange(len(corpus)), config, 0)
    given = WindowSampler(corpus, np.arange(len(corpus)), config, 0, part)
    for step in range(3):
        assert torch.equal(given.read(step), whole.read(step)[torch.from_numpy(part)])
        for ours, theirs in zip(given.draw(step), whole.draw(step), strict=True):
            np.testing.assert_array_equal(ours, theirs[part])


def assert_held_is_streamed(corpus: Corpus, device: torch.device) -> None:
    """Windows cut from what the device holds are those that are read, speaker by speaker or not."""
    for one_speaker in (False, True):
        streamed = windows(corpus, one_speaker=one_speaker)
        held = windows(corpus, one_speaker=one_speaker)
        held.hold(device)
        assert held.bytes == 2 * corpus.samples[corpus.samples >= 8000].sum()
        pairs = zip(held.batches(2, 6, device), streamed.batches(2, 6, device), strict=True)
        assert all(step == other and torch.equal(ours, theirs) for (step, ours), (other, theirs) in pairs)


def test_windows_from_a_held_corpus(tones: Path) -> None:
    assert_held_is_streamed(Corpus.open(tones), CPU)


@pytest.mark.cuda
def test_windows_from_a_corpus_on_the_gpu(tones: Path, cuda: torch.device) -> None:
    assert_held_is_streamed(Corpus.open(tones), cuda)


def test_utterances_are_drawn_by_duration(tones: Path) -> None:
    """Counts of 16,000 draws lie within five standard deviations of what durations predict."""
    corpus = Corpus.open(tones)
    given = windows(corpus, batch=16_000)
    counts = np.bincount(given.draw(0)[0], minlength=len(corpus))
    fits = corpus.samples >= 8000
    share = np.where(fits, corpus.samples, 0) / corpus.samples[fits].sum()
    assert (np.abs(counts - 16_000 * share) <= 5 * np.sqrt(16_000 * share * (1 - share))).all()
    assert (counts[~fits] == 0).all()


def test_one_speaker_a_batch_and_every_speaker_by_duration(tones: Path) -> None:
    corpus = Corpus.open(tones)
    given = windows(corpus, one_speaker=True, batch=4)
    speakers = [{corpus.speakers[row] for row in given.draw(step)[0]} for step in range(600)]
    assert all(len(names) == 1 for names in speakers)
    seen = [names.pop() for names in speakers]
    names = sorted(set(corpus.speakers))
    long = [sum(corpus.samples[r] for r in range(len(corpus)) if corpus.speakers[r] == n) for n in names]
    for name, total in zip(names, long, strict=True):
        share = total / sum(long)
        assert abs(seen.count(name) - 600 * share) <= 5 * np.sqrt(600 * share * (1 - share)) + 6


def test_short_utterances_are_counted_and_none_left_is_refused(tones: Path) -> None:
    corpus = Corpus.open(tones)
    assert windows(corpus).too_short == 1  # the one of 0.2 s
    with pytest.raises(InputError, match=r"data.window_size=99999999: none of the 25 utterances is that long"):
        windows(corpus, samples=99_999_999)


def test_a_reader_that_fails_is_heard(tones: Path) -> None:
    given = windows(Corpus.open(tones))
    given.rows = given.rows + 1000  # rows that the corpus does not have
    with pytest.raises(IndexError):
        next(given.batches(0, 2, CPU))


def test_full_scale() -> None:
    assert to_float(torch.tensor([[-32768, 0, 16384]], dtype=torch.int16)).tolist() == [[-1.0, 0.0, 0.5]]
