"""What every augmentation promises: seeded, by example, safe on silence and in half precision, and written in YAML."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from cpc.augment.compose import Aligned, Augmentation, AugmentConfig, augment, views
from cpc.augment.crop import Crop, TimeDropout, silence
from cpc.augment.filters import BandRejection, LowPass, low_pass, reject
from cpc.augment.gain import Gain, PolarityInversion, amplify
from cpc.augment.noise import ColouredNoise, add_noise
from cpc.augment.parameters import Rows, in_float32
from cpc.augment.pitch import PitchShift, TimeStretch, change_tempo, shift_pitch
from cpc.augment.reverb import SyntheticReverb, reverberate
from cpc.config import InputError, dump, validate

PARTS = [
    Gain(),
    PolarityInversion(),
    ColouredNoise(),
    SyntheticReverb(),
    PitchShift(),
    TimeStretch(),
    BandRejection(),
    LowPass(),
    TimeDropout(),
    Crop(samples=2000),
]
every = pytest.mark.parametrize("part", PARTS, ids=lambda part: part.kind)
BATCH, SAMPLES = 4, 4000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def wave() -> Tensor:
    return torch.randn(BATCH, SAMPLES, generator=generator(9)) * 0.1


@every
def test_the_generator_alone_decides(part: Augmentation, wave: Tensor) -> None:
    torch.manual_seed(1)
    first = part(wave, generator(3))
    torch.manual_seed(2)
    assert torch.equal(first, part(wave, generator(3)))
    assert not torch.equal(first, part(wave, generator(4)))
    assert torch.equal(wave, torch.randn(BATCH, SAMPLES, generator=generator(9)) * 0.1)  # and the input is untouched


@every
def test_examples_differ_and_do_not_meet(part: Augmentation, wave: Tensor) -> None:
    """Parameters are drawn by example, and an example's result depends on no other."""
    same = part(wave[:1].expand(BATCH, -1), generator(5))
    assert not all(torch.equal(same[0], row) for row in same[1:])
    changed = wave.clone()
    changed[0] = 0.3
    before, after = part(wave, generator(5)), part(changed, generator(5))
    assert torch.equal(before[1:], after[1:])
    assert not torch.equal(before[0], after[0])


@every
def test_silence_stays_silent(part: Augmentation) -> None:
    found = part(torch.zeros(2, SAMPLES), generator())
    assert torch.equal(found, torch.zeros_like(found))


@every
def test_autocast_changes_nothing(part: Augmentation, wave: Tensor) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = part(wave, generator(6))
    assert torch.equal(inside, part(wave, generator(6)))


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_and_no_more(part: Augmentation, wave: Tensor, dtype: torch.dtype) -> None:
    half = wave.to(dtype)
    found = part(half, generator(7))
    assert found.dtype == dtype
    # Both begin with the same numbers and draw the same, so only the result's own rounding is between them.
    torch.testing.assert_close(found, part(half.float(), generator(7)).to(dtype), rtol=1e-2, atol=1e-3)


def test_products_are_made_in_float32_inside_autocast(wave: Tensor) -> None:
    product = in_float32(lambda waveform: waveform @ waveform.T)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded, inside = (wave @ wave.T).float(), product(wave)
    assert torch.equal(inside, wave @ wave.T)
    assert not torch.equal(inside, rounded)
    assert product(wave.double()).dtype == torch.float64


FUNCTIONS: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "gain": (amplify, (torch.tensor([-6.0, 0.0, 3.0, 9.0]),)),
    "noise": (add_noise, (torch.randn(BATCH, SAMPLES), torch.tensor([0.0, 5.0, 10.0, 20.0]))),
    "room": (reverberate, (torch.randn(BATCH, 300),)),
    "reject": (reject, (torch.tensor([100.0, 500.0, 900.0, 2000.0]), torch.tensor([300.0, 800.0, 1000.0, 4000.0]))),
    "low pass": (low_pass, (torch.tensor([1000.0, 3000.0, 4000.0, 6000.0]),)),
    "silence": (silence, (torch.tensor([0.0, 10.0, 500.0, 3990.0]), torch.tensor([5.0, 100.0, 0.0, 50.0]))),
    "pitch": (shift_pitch, (torch.tensor([-300.0, 0.0, 100.0, 300.0]),)),
    "tempo": (change_tempo, (torch.tensor([0.9, 1.0, 1.05, 1.1]),)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_permuting_the_batch_permutes_the_results(name: str, wave: Tensor) -> None:
    function, parameters = FUNCTIONS[name]
    order = torch.tensor([2, 0, 3, 1])
    permuted = function(wave[order], *(parameter[order] for parameter in parameters))
    torch.testing.assert_close(function(wave, *parameters)[order], permuted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "part", [Gain(share=0.3), PolarityInversion(share=0.3), PitchShift(share=0.3)], ids=lambda part: part.kind
)
def test_a_share_of_the_examples_is_changed(part: Gain | PolarityInversion | PitchShift) -> None:
    wave = torch.randn(1000, 600)
    same = (part(wave, generator()) == wave).all(-1).float().mean()
    assert abs(float(same) - 0.7) < 4 * (0.3 * 0.7 / 1000) ** 0.5


def test_numbers_are_drawn_from_the_range() -> None:
    flat = torch.ones(1000, 8)
    db = 20 * Gain(db=(-3.0, 5.0))(flat, generator())[:, 0].log10()
    assert -3.0 <= float(db.min()) < -2.9
    assert 4.9 < float(db.max()) <= 5.0
    gap = (TimeDropout(seconds=(0.01, 0.02))(torch.ones(500, 1000), generator()) == 0).sum(-1)
    assert 160 <= int(gap.min()) < int(gap.max()) <= 320


@every
def test_yaml_and_back(part: Augmentation) -> None:
    again: Augmentation = TypeAdapter(Augmentation).validate_python(dump(part))
    assert again == part


def test_a_recipe_reads_a_list_of_kinds() -> None:
    past = [{"kind": "pitch_shift", "cents": [-300, 300]}, {"kind": "coloured_noise"}, {"kind": "synthetic_reverb"}]
    config = validate(AugmentConfig, {"past": past})
    assert config == AugmentConfig(past=(PitchShift(), ColouredNoise(), SyntheticReverb()))
    assert validate(AugmentConfig, dump(config)) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "pitch_shift", "cents": [300, -300]}, r"past\.0.*cents=.*must be \[lowest, highest\], lowest first"),
        ({"kind": "synthetic_reverb", "rt60": [0, 1]}, r"past\.0.*rt60=.*must be above 0"),
        ({"kind": "gain", "share": 2}, r"past\.0.*share=2"),
        (
            {"kind": "time_stretch"},
            r"past\.0=.*'time_stretch'.*does not match any of the expected tags",
        ),  # would move frames
        ({"kind": "crop", "samples": 10}, r"past\.0=.*'crop'.*does not match any of the expected tags"),
    ],
)
def test_mistakes_are_told_in_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        validate(AugmentConfig, {"past": [settings]})


BOTH = AugmentConfig(past=(ColouredNoise(),), future=(ColouredNoise(),))


def test_views_depend_on_seed_step_and_view_alone(wave: Tensor) -> None:
    first = views(wave, BOTH, seed=1, step=2)
    again = views(wave, BOTH, seed=1, step=2)
    assert torch.equal(first.past, again.past)
    assert torch.equal(first.future, again.future)
    others = [views(wave, BOTH, *key) for key in ((2, 2), (1, 3))]
    everything = [first.past, first.future, *(other.past for other in others)]
    assert not any(torch.equal(a, b) for i, a in enumerate(everything) for b in everything[:i])


def test_an_example_is_augmented_in_the_same_way_in_a_part_of_the_batch(wave: Tensor) -> None:
    chain = AugmentConfig(past=(ColouredNoise(), SyntheticReverb(share=0.5), Gain()))
    whole = views(wave, chain, seed=1, step=2).past
    places = np.array([3, 1])
    part = views(wave[places], chain, seed=1, step=2, rows=Rows(places, len(wave))).past
    torch.testing.assert_close(part, whole[places])


def test_without_augmentation_the_views_are_the_waveform_itself(wave: Tensor) -> None:
    past, future = views(wave, AugmentConfig(), 0, 0)
    assert past is future is wave
    past, future = views(wave, AugmentConfig(past=(Gain(),)), 0, 0)
    assert future is wave is not past


def test_a_chain_runs_in_its_order(wave: Tensor) -> None:
    chain: list[Aligned] = [ColouredNoise(), SyntheticReverb(), Gain()]
    found, stream = augment(wave, chain, generator(8)), generator(8)
    for part in chain:
        wave = part(wave, stream)
    assert torch.equal(found, wave)


def test_nothing_is_kept_for_a_backward_pass(wave: Tensor) -> None:
    assert not augment(wave.requires_grad_(), [Gain(), PitchShift()], generator()).requires_grad


def test_cuda_equals_itself_and_is_near_the_cpu_for_given_numbers(cuda: torch.device, wave: Tensor) -> None:
    for function, parameters in FUNCTIONS.values():
        there = function(wave.to(cuda), *(parameter.to(cuda) for parameter in parameters)).cpu()
        torch.testing.assert_close(there, function(wave, *parameters), rtol=1e-3, atol=1e-4)
    first, again = (views(wave.to(cuda), BOTH, 0, 5) for _ in range(2))
    assert torch.equal(first.past, again.past)
