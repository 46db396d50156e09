"""Augmentations of waveforms: batched, on the device of the batch, and a pure function of a generator.

Each is a frozen dataclass with a `kind`, so that YAML validates into it, and is called as `part(waveform, source,
sample_rate)`: parameters are drawn for every example, then a plain function of the same file, which can be used and
tested by itself, applies them. The source is a generator, or a `BatchPart` of one where a batch is divided. `augment`
runs a chain of them, `views` makes the past and the future of CPC.

Two libraries were weighed. WavAugment (Kharitonov et al. 2020) calls libsox on the CPU for one example at a time and
has to be compiled; torch-audiomentations draws from Python's global generator, reads impulse responses from disk for
every batch and shifts the pitch of one example after the other. Neither can be a pure function of (seed, step). Of
torchaudio's functionals, `phase_vocoder` and `pitch_shift` take one rate for the whole batch, and `add_noise` gives
NaN where the noise is silent; the first serves as an oracle in the tests.
"""

from cpc.augment.compose import Aligned, Augmentation, AugmentConfig, Views, augment, views
from cpc.augment.crop import Crop, TimeDropout
from cpc.augment.filters import BandRejection, LowPass
from cpc.augment.gain import Gain, PolarityInversion
from cpc.augment.noise import ColouredNoise, FolderNoise
from cpc.augment.parameters import BatchPart, Rows, Source
from cpc.augment.pitch import PitchShift, TimeStretch
from cpc.augment.reverb import MeasuredReverb, SyntheticReverb

__all__ = [
    "Aligned",
    "AugmentConfig",
    "Augmentation",
    "BandRejection",
    "BatchPart",
    "ColouredNoise",
    "Crop",
    "FolderNoise",
    "Gain",
    "LowPass",
    "MeasuredReverb",
    "PitchShift",
    "PolarityInversion",
    "Rows",
    "Source",
    "SyntheticReverb",
    "TimeDropout",
    "TimeStretch",
    "Views",
    "augment",
    "views",
]
