"""Streaming: any cut of the audio gives the frames of the whole, each as soon as its last sample is there."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import cpc
from cpc.config import validate
from cpc.models.cpc import CPC, Latents, ModelConfig, build

ODD = {"kernels": (5, 2, 3), "strides": (3, 4, 1), "padding": (0, 1, 2)}  # a stride above its kernel, and padding 0


def model(norm: str = "channel", context: dict[str, object] | None = None, **encoder: object) -> CPC:
    settings = {"encoder": {"channels": 8, "norm": norm, **encoder}, "context": {"hidden": 6, **(context or {})}}
    made = build(validate(ModelConfig, settings), seed=3)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm1d):  # not the identity, as it is before training
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2)
    return made.eval()


def noise(batch: int, samples: int) -> Tensor:
    return 0.3 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(1))


def streamed(stream: cpc.Stream, waveform: Tensor, cuts: Sequence[int]) -> Latents:
    edges = [0, *sorted(cuts), waveform.shape[1]]
    parts = [stream(waveform[:, a:b]) for a, b in pairwise(edges)]
    return Latents(*(torch.cat(column, dim=1) for column in zip(*parts, stream.close(), strict=True)))


def assert_whole(found: Latents, model: CPC, waveform: Tensor) -> None:
    with torch.inference_mode():
        whole = model(waveform)
    for ours, theirs in zip(found, whole, strict=True):
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 5000), max_size=12), batch=st.integers(1, 3))
@pytest.mark.parametrize("norm", ["none", "channel", "batch"])
def test_any_chunks_equal_the_whole(norm: str, cuts: list[int], batch: int) -> None:
    subject, waveform = model(norm, {"layers": 2}), noise(batch, 5000)
    assert_whole(streamed(cpc.stream(subject), waveform, cuts), subject, waveform)


def test_a_linear_output_and_norms_between_layers_stream_too() -> None:
    subject, waveform = model(context={"layers": 2, "norm": "layer"}, output="linear"), noise(2, 5000)
    assert (subject(waveform).z < 0).any()  # without the last ReLU
    assert_whole(streamed(cpc.stream(subject), waveform, [100, 1000, 1001, 3000]), subject, waveform)


@pytest.mark.parametrize("step", [1, 7, 160, 465, 1600])
@pytest.mark.parametrize("samples", [465, 624, 3333])
def test_chunks_of_one_size_equal_the_whole(step: int, samples: int) -> None:
    subject, waveform = model(), noise(1, samples)
    assert_whole(streamed(cpc.stream(subject), waveform, range(step, samples, step)), subject, waveform)


@pytest.mark.parametrize("step", [1, 5, 64])
@pytest.mark.parametrize("samples", [40, 41, 47, 300])
def test_other_geometries_equal_the_whole(step: int, samples: int) -> None:
    subject, waveform = model(**ODD), noise(2, samples)
    assert_whole(streamed(cpc.stream(subject), waveform, range(step, samples, step)), subject, waveform)


CONTEXTS: list[dict[str, object]] = [
    {"kind": "gru", "layers": 2},
    {"kind": "lstm", "layers": 2},
    {"kind": "transformer", "layers": 2, "heads": 2, "width": 12, "span": 9},
]


@pytest.mark.parametrize("context", CONTEXTS, ids=lambda context: str(context["kind"]))
def test_every_context_goes_on_from_its_state(context: dict[str, object]) -> None:
    subject, waveform = model(context=context), noise(2, 9000)
    cuts = [100, 800, 810, 3000, 3000, 8999]
    assert_whole(streamed(cpc.stream(subject), waveform, cuts), subject, waveform)


def test_long_chunks_are_as_exact_as_short_ones() -> None:
    subject, waveform = model(), noise(1, 200_000)
    assert_whole(streamed(cpc.stream(subject), waveform, [70_001]), subject, waveform)


def test_each_frame_comes_with_its_last_sample_and_latency_is_the_bound() -> None:
    subject = model()
    stream, samples = cpc.stream(subject), 2000
    given: list[int] = []  # the number of samples after which each frame came
    for n, sample in enumerate(noise(1, samples).split(1, dim=1), start=1):
        given += [n] * stream(sample).z.shape[1]
    # The receptive field of frame t ends with the sample before 160 t + 79.5 + 465 / 2 (its centre and half the field).
    ends = subject.frame_centres(len(given)) * subject.sample_rate + subject.receptive_field / 2
    assert given == ends.astype(int).tolist()
    begins = ends - subject.receptive_field
    for onset in range(0, 1000, 13):
        first = int(np.flatnonzero(begins >= onset)[0])
        assert given[first] - onset <= stream.latency * subject.sample_rate
    assert stream.latency == pytest.approx((465 + 160) / 16000)
    assert stream.frames == len(given)
    rest = stream.close()
    assert stream.frames == len(given) + rest.c.shape[1] == subject.frames(samples)


def test_too_few_samples_give_no_frame() -> None:
    stream = cpc.stream(model())
    assert stream(noise(2, 100)).z.shape == (2, 0, 8)
    assert stream.close().c.shape == (2, 0, 6)
    assert cpc.stream(model()).close().z.shape == (1, 0, 8)


def test_what_cannot_be_streamed_is_refused_in_one_line() -> None:
    with pytest.raises(cpc.InputError, match=r"training mode.*call model\.eval\(\) first"):
        cpc.stream(model().train())
    over_time = model()
    over_time.encoder.norms[2] = nn.GroupNorm(1, 8)
    with pytest.raises(cpc.InputError, match=r"norm=GroupNorm: may depend on frames to come; only norms none"):
        cpc.stream(over_time)


def test_wrong_chunks_are_refused() -> None:
    stream = cpc.stream(model())
    stream(noise(2, 50))
    for chunk in (noise(1, 50), torch.zeros(2, 50, dtype=torch.int16)):
        with pytest.raises((cpc.InputError, TypeError)):
            stream(chunk)
    stream.close()
    with pytest.raises(cpc.InputError, match="is closed"):
        stream(noise(2, 50))
    with pytest.raises(cpc.InputError, match="is closed"):
        stream.close()
