"""A verification session: the layers of a model beside the baselines, on the same trials; nothing is computed twice."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from cpc.corpus.corpus import Corpus
from cpc.evaluation.baselines import announced
from cpc.evaluation.cache import key
from cpc.evaluation.features import Features
from cpc.evaluation.layers import Layer, LayerName
from cpc.evaluation.leakage import Unknown, pretraining_note
from cpc.evaluation.protocol import REPLICATES
from cpc.evaluation.saved import SHORT
from cpc.evaluation.session import beside_baselines, each_once, load_checked, subject_of
from cpc.evaluation.verification.embeddings import Vectors, cosines, embeddings
from cpc.evaluation.verification.material import Choice, Material, Rows, gather
from cpc.evaluation.verification.result import VerificationResult
from cpc.evaluation.verification.score import PRIORS, summarise
from cpc.nn.frontends import WINDOW
from cpc.utterance import load_pooling

VERSION = 1  # part of every cache key: raise it when a change of code changes any number


@dataclass(frozen=True)
class Session:
    """Trials, and where and how they are judged."""

    material: Material
    cache: Path | None = None
    device: str = "cpu"
    progress: bool = False


def verify_run(
    run: Path,
    corpus: Corpus,
    choice: Choice,
    *,
    layers: Sequence[LayerName] = ("z", "c"),
    baselines: bool = True,
    cache: Path | None = None,
    device: str = "cpu",
    progress: bool = True,
    pretrain_ids: Sequence[str] | Unknown | None = None,
) -> tuple[Material, list[VerificationResult]]:
    """Verification by a model (a run folder or a checkpoint), baselines first: MFCC, log-mel, random, then its layers.

    A model that was trained with an attentive pooling is judged by the vectors that it makes of c, too.
    `pretrain_ids` are the utterances that the model was trained on, if they are known. What was computed once is kept
    in `cache`. Raises InputError where there is nothing to compare, before anything is computed.
    """
    model = load_checked(run, layers, device)
    shortest = max(model.receptive_field, WINDOW)  # one for all features: they are judged on the same trials

    def usable(samples: Rows) -> Bool[np.ndarray, " utterance"]:
        long_enough: Bool[np.ndarray, " utterance"] = samples >= shortest
        return long_enough

    material = gather(corpus, choice, usable)
    session = Session(material, cache, device, progress)
    heard = pretraining_note(corpus, material.trials.rows, pretrain_ids)
    pooling = load_pooling(run, model)
    pooled = [Layer(model, "c", pooling=pooling)] if pooling else []
    return material, beside_baselines(model, layers, baselines, partial(verify_cached, session=session), heard, pooled)


def verify_cached(group: Sequence[Features], session: Session) -> list[VerificationResult]:
    """Verification by features that come out of one pass over the audio, from `cache`/KEY.json where they are there."""
    cache, material = session.cache, session.material
    places = [cache / f"{_key(features, material)}.json" if cache else None for features in group]
    found = each_once(group, places, partial(_known, material), partial(_measure, session))
    short = material.digest[:SHORT]
    return [replace(result, fingerprint=short, subject=subject_of(f)) for f, result in zip(group, found, strict=True)]


def _measure(session: Session, group: Sequence[Features]) -> Iterator[VerificationResult]:
    material = session.material
    found = embeddings(group, material.corpus, material.rows, device=session.device, progress=session.progress)
    return (_measured(features, vectors, session) for features, vectors in zip(group, found, strict=True))


def _measured(features: Features, vectors: Vectors, session: Session) -> VerificationResult:
    material, trials = session.material, session.material.trials
    speakers = material.corpus.groups("speaker")[1]
    with announced(f"verification by {features.name}", session.progress) as said:
        scores = cosines(vectors, material.rows, material.train, trials)
        sides = speakers[np.stack([trials.first, trials.second])]
        summary = summarise(scores, trials.target, sides, seed=material.choice.seed)
        said.append(f"EER {summary.eer.value:.1%}")
    targets = int(trials.target.sum())
    return VerificationResult(
        features=features.name,
        eer=summary.eer,
        min_dcf={f"{prior:g}": cost for prior, cost in summary.min_dcf.items()},
        targets=targets,
        non_targets=len(trials) - targets,
        speakers=len(np.unique(sides)),
        utterances=len(trials.rows),
        **_conditions(material),
    )


def _conditions(material: Material) -> dict[str, Any]:
    choice = material.choice
    return {
        "corpus": material.corpus.name,
        "train": choice.train,
        "test": choice.source,
        "listed": choice.listed is not None,
        "other_chapters": choice.other_chapters,
        "most": choice.most,
        "seed": choice.seed,
        "protocol": _protocol(choice),
        "notes": material.notes,
    }


def _protocol(choice: Choice) -> str:
    other = " of different chapters" if choice.other_chapters else ""
    drawn = f"at most {choice.most} trials of each kind{other}, speakers alike, seed {choice.seed}"
    trials = f"trials of {Path(choice.source).name}" if choice.listed else drawn
    return (
        f"means of frames, centred on the mean of {choice.train}, scored by cosine; {trials}; EER by linear "
        f"interpolation; minDCF with costs of 1, normalised; {REPLICATES} bootstrap replicates over speakers"
    )


def _known(material: Material, place: Path) -> VerificationResult:
    """A cached result under the names by which its data go today."""
    return replace(VerificationResult.read(place), **_conditions(material))


def _key(features: Features, material: Material) -> str:
    facts = {
        "version": VERSION,
        "features": {"name": features.name, **features.settings},
        "material": material.digest,
        "priors": PRIORS,
        "replicates": REPLICATES,
    }
    return f"verification-{key(facts)}"
