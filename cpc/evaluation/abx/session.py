"""An ABX session: the layers of a model beside the baselines; nothing is computed twice."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from cpc.evaluation.abx.bank import Bank, corpus_banks
from cpc.evaluation.abx.material import Material
from cpc.evaluation.abx.result import ABXResult
from cpc.evaluation.abx.score import REPLICATES
from cpc.evaluation.abx.task import Task, abx
from cpc.evaluation.baselines import announced
from cpc.evaluation.cache import key
from cpc.evaluation.features import Features
from cpc.evaluation.layers import LayerName
from cpc.evaluation.leakage import Unknown, pretraining_note
from cpc.evaluation.saved import SHORT
from cpc.evaluation.session import beside_baselines, each_once, load_checked, subject_of

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
    pretrain_ids: Sequence[str] | Unknown | None = None,
) -> list[ABXResult]:
    """ABX of a model (a run folder or a checkpoint), baselines first: MFCC, log-mel, random, then its layers.

    `pretrain_ids` are the utterances that the model was trained on, if they are known. What was computed once is kept
    in `cache`. Raises InputError where there is nothing to compare.
    """

    def measure(group: Sequence[Features]) -> list[ABXResult]:
        return abx_cached(group, material, task, cache, device, progress)

    heard = pretraining_note(material.corpus, material.rows, pretrain_ids)
    return beside_baselines(load_checked(run, layers, device), layers, baselines, measure, heard)


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

    def measure(missing: Sequence[Features]) -> Iterator[ABXResult]:
        banks = corpus_banks(missing, material.corpus, material.rows, device=device, progress=progress)
        return (_measured(bank, material, task, device, progress) for bank in banks)

    found = each_once(group, places, partial(_known, material), measure)
    labels, short = material.labels, material.digest[:SHORT]
    return [
        replace(result, labels=labels, fingerprint=short, subject=subject_of(features))
        for features, result in zip(group, found, strict=True)
    ]


def _measured(bank: Bank, material: Material, task: Task, device: str, progress: bool) -> ABXResult:
    names = {"unit": material.unit, "corpus": material.corpus.name, "split": material.split}
    with announced(f"ABX {task.speaker} speakers, {task.context} context, of {bank.name}", progress) as said:
        result = abx(bank, material.items, task, **names, device=device, notes=material.notes)
        said.append(f"error {result.error:.1%}")
    return result


def _known(material: Material, place: Path) -> ABXResult:
    """A cached result under the names by which its data go today."""
    saved = ABXResult.read(place)
    return replace(saved, corpus=material.corpus.name, split=material.split, unit=material.unit)


def _key(features: Features, material: Material, task: Task) -> str:
    facts = {
        "version": VERSION,
        "features": {"name": features.name, **features.settings},
        "material": material.digest,
        "notes": material.notes,
        "task": asdict(task),
        "replicates": REPLICATES,
    }
    return f"abx-{key(facts)}"
