"""A session of measuring: the layers of a run's model beside the baselines, and nothing is computed twice.

The baselines say what a number is worth: MFCC and log-mel are what speech recognition used before anything was
learnt, and a model of the same architecture with random weights shows what the architecture alone gives.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from cpc.audio.mfcc import MFCC39, LogMel
from cpc.evaluation.features import Features, Layer, LayerName, check_layer
from cpc.evaluation.probes.cache import key
from cpc.evaluation.results import SHORT, Saved
from cpc.models.checkpoint import load
from cpc.models.cpc import CPC, build

RANDOM_SEED = 0


def load_checked(run: Path, layers: Sequence[LayerName], device: str) -> CPC:
    """The model of a run folder or a checkpoint. Raises InputError for a layer that it does not have."""
    model = load(run, device)
    for layer in layers:
        check_layer(model, layer)
    return model


@runtime_checkable
class Noted(Protocol):
    """A dataclass of a result, with notes."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def notes(self) -> tuple[str, ...]: ...


Result = TypeVar("Result", bound=Noted)


def beside_baselines(
    model: CPC,
    layers: Sequence[LayerName],
    baselines: bool,
    measure: Callable[[Sequence[Features]], list[Result]],
    heard: tuple[str, ...],
    further: Sequence[Layer] = (),
) -> list[Result]:
    """What `measure` gives for MFCC, log-mel and random init, if asked for, and then for the layers of the model.

    `further`: more of the model's own features. `heard`: what pretraining heard of the test, a note to its own results.
    """
    device = str(next(model.parameters()).device)
    results: list[Result] = []
    for group in baseline_features(model, layers, device) if baselines else ():
        results += measure(group)
    own = measure([*(Layer(model, layer) for layer in layers), *further])
    return results + [replace(result, notes=result.notes + heard) for result in own]


def baseline_features(model: CPC, layers: Sequence[LayerName], device: str) -> Iterator[Sequence[Features]]:
    """MFCC, log-mel, and the layers of an untrained model of the same architecture."""
    yield [MFCC39().to(device)]
    yield [LogMel().to(device)]
    untrained = build(model.config, RANDOM_SEED).to(device)
    yield [Layer(untrained, layer, "random") for layer in layers]


def subject_of(features: Features) -> str:
    """A fingerprint of features whose name does not say all: empty for a run's own and for usual front ends."""
    if features.name.startswith("CPC") or features.settings in (MFCC39().settings, LogMel().settings):
        return ""
    return key(features.settings)[:SHORT]


Subject = TypeVar("Subject")
Kept = TypeVar("Kept", bound=Saved)


def each_once(
    subjects: Sequence[Subject],
    places: Sequence[Path | None],
    known: Callable[[Path], Kept | None],
    measure: Callable[[list[Subject]], Iterator[Kept]],
) -> list[Kept]:
    """The result of each subject: the one `known` at its place, or what `measure` gives, in turn, for all others.

    Each new result is written to its place as soon as it is there; None is no place. A file that cannot be read, or
    is of another version, counts as none.
    """
    found = [_readable(place, known) for place in places]
    missing = [subject for subject, result in zip(subjects, found, strict=True) if result is None]
    computed = measure(missing) if missing else iter(())
    results = []
    for place, result in zip(places, found, strict=True):
        results.append(next(computed) if result is None else result)
        if result is None and place is not None:
            results[-1].write(place)
    return results


def _readable(place: Path | None, known: Callable[[Path], Kept | None]) -> Kept | None:
    try:
        return known(place) if place is not None else None
    except (FileNotFoundError, ValueError):
        return None
