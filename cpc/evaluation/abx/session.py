"""An ABX session: the layers of a model beside the baselines; nothing is computed twice."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from cpc.evaluation.abx.bank import Bank, corpus_banks
from cpc.evaluation.abx.material import Material
from cpc.evaluation.abx.result import ABXResult
from cpc.evaluation.abx.score import REPLICATES
from cpc.evaluation.abx.task import Task, abx
from cpc.evaluation.baselines import announced, baseline_features
from cpc.evaluation.features import Features
from cpc.evaluation.layers import Layer, LayerName, check_layer
from cpc.evaluation.leakage import pretraining_note
from cpc.model import load

VERSION = 1  # part of every cache key: raise it when a change of code changes any number


def abx_run(
    run: Path,
    material: Material,
    task: Task,
    *,
    layers: Sequence[LayerName] = ("z", "c"),
    baselines: bool = True,
    cache: Path | None = None,
    device: str = "cpu",
    progress: bool = True,
    pretrain_ids: Sequence[str] | None = None,
) -> list[ABXResult]:
    """ABX of a model (a run folder or a checkpoint), baselines first: MFCC, log-mel, random, then its layers.

    `pretrain_ids` are the utterances that the model was trained on, if they are known. What was computed once is kept
    in `cache`. Raises InputError where there is nothing to compare.
    """
    model = load(run, device)
    for layer in layers:
        check_layer(model, layer)
    results: list[ABXResult] = []
    for group in baseline_features(model, layers, device) if baselines else ():
        results += abx_cached(group, material, task, cache, device, progress)
    own = abx_cached([Layer(model, layer) for layer in layers], material, task, cache, device, progress)
    heard = pretraining_note(material.corpus, material.rows, pretrain_ids)
    return results + [replace(result, notes=result.notes + heard) for result in own]


def abx_cached(
    group: Sequence[Features],
    material: Material,
    task: Task,
    cache: Path | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> list[ABXResult]:
    """ABX of features that come out of one pass over the audio, from `cache`/KEY.json where they are there."""
    places = [cache / f"{_key(features, material, task)}.json" if cache else None for features in group]
    found = [_find(place, material) for place in places]
    missing = [features for features, result in zip(group, found, strict=True) if result is None]
    corpus, rows = material.corpus, material.rows
    computed = iter(corpus_banks(missing, corpus, rows, device=device, progress=progress) if missing else [])
    results = []
    for place, result in zip(places, found, strict=True):
        results.append(result or _measured(next(computed), material, task, device, progress))
        if result is None and place is not None:
            results[-1].write(place)
    return results


def _measured(bank: Bank, material: Material, task: Task, device: str, progress: bool) -> ABXResult:
    names = {"unit": material.unit, "corpus": material.corpus.name, "split": material.split}
    with announced(f"ABX {task.speaker} speakers, {task.context} context, of {bank.name}", progress) as said:
        result = abx(bank, material.items, task, **names, device=device, notes=material.notes)
        said.append(f"error {result.error:.1%}")
    return result


def _find(place: Path | None, material: Material) -> ABXResult | None:
    """A cached result under the names by which its data go today; None where there is none that can be read."""
    try:
        result = ABXResult.read(place) if place else None
    except (FileNotFoundError, ValueError):
        return None
    return result and replace(result, corpus=material.corpus.name, split=material.split, unit=material.unit)


def _key(features: Features, material: Material, task: Task) -> str:
    facts = {
        "version": VERSION,
        "features": {"name": features.name, **features.settings},
        "material": material.digest,
        "notes": material.notes,
        "task": asdict(task),
        "replicates": REPLICATES,
    }
    return "abx-" + hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
