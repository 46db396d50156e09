"""Padded batches: padding is bounded, shapes are few, every waveform is in one batch."""

import numpy as np
import pytest
import torch
from torch import nn

from cpc.evaluation.embed.inputs import batches, evaluating, pad, rounded_up


@pytest.mark.parametrize("shortest", [1 << 10, 1 << 13])
def test_padding_is_less_than_an_eighth_and_shapes_are_few(shortest: int) -> None:
    lengths = range(shortest, 1 << 19, 97)
    padded = [rounded_up(n, shortest) for n in lengths]
    assert all(n <= p < n * 9 / 8 for n, p in zip(lengths, padded, strict=True))
    octaves = 19 - (shortest.bit_length() - 1)
    assert len(set(padded)) <= 8 * octaves + 1  # eight an octave, and the end of the last
    assert rounded_up(1, shortest) == shortest


def test_every_waveform_is_in_one_batch_of_at_most_so_many_samples() -> None:
    samples = np.random.default_rng(0).integers(300, 50_000, 400)
    seen: list[int] = []
    lengths: list[int] = []
    for places, length in batches(samples, 1 << 10, 1 << 16):
        assert len(places) * length <= 1 << 16
        assert samples[places].max() <= length
        seen += places.tolist()
        lengths.append(length)
    assert sorted(seen) == list(range(400))
    assert lengths == sorted(lengths, reverse=True)
    assert [len(places) for places, _ in batches(np.array([9000, 9000]), 1 << 10, 1)] == [1, 1]


def test_pad_puts_zeros_behind() -> None:
    rows = pad([np.ones(2, np.float32), np.full(3, 2, np.float32)], 4)
    assert rows.tolist() == [[1, 1, 0, 0], [2, 2, 2, 0]]


def test_evaluating_gives_the_mode_back() -> None:
    module = nn.Dropout().train()
    with evaluating(module), pytest.raises(KeyError):
        assert torch.equal(module(torch.ones(9)), torch.ones(9))
        raise KeyError
    assert module.training
