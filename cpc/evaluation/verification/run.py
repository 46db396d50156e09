"""Verification results as a table for a terminal."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool
from rich.table import Table

from cpc.audio.mfcc import WINDOW
from cpc.data.corpus import Corpus
from cpc.evaluation.features import Features, Layer, LayerName
from cpc.evaluation.leakage import Unknown, pretraining_note
from cpc.evaluation.probes.cache import key
from cpc.evaluation.probes.protocol import REPLICATES
from cpc.evaluation.results import SHORT
from cpc.evaluation.runner import announced, client_of, pretrain_ids, read_state, target_run
from cpc.evaluation.session import beside_baselines, each_once, load_checked, subject_of
from cpc.evaluation.verification.score import (
    PRIORS,
    Estimate,
    Vectors,
    VerificationResult,
    cosines,
    embeddings,
    summarise,
)
from cpc.evaluation.verification.trials import Choice, Rows, VerificationData, gather, write_trials
from cpc.losses.instance import load_pooling
from cpc.tracking.mlflow import log_now

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


def verification_table(results: Sequence[VerificationResult]) -> Table:
    """One row a result: EER and minimum costs with their 95% intervals over speakers, and what was compared."""
    first = results[0]
    where = f"{first.corpus} {Path(first.test).name}" + (", other chapters" if first.other_chapters else "")
    title = f"{where}: speaker verification, 95% over speakers; chance is 50% and 1"
    table = Table(title=title, title_justify="left")
    table.add_column("features")
    for name in ("EER %", *(f"minDCF({prior})" for prior in first.min_dcf), "targets", "non-targets", "speakers"):
        table.add_column(name, justify="right")
    for r in results:
        costs = (_interval(cost, "{:.3f}", 1.0) for cost in r.min_dcf.values())
        counts = (f"{n:,}" for n in (r.targets, r.non_targets, r.speakers))
        table.add_row(r.features, _interval(r.eer, "{:.2f}", 100.0), *costs, *counts)
    return table


def _interval(estimate: Estimate, form: str, times: float) -> str:
    value, low, high = (form.format(times * number) for number in estimate)
    return f"{value} [{low}, {high}]"


# --- A verification session: the layers of a model beside the baselines, on the same trials; nothing is computed twice.


VERSION = 1  # part of every cache key: raise it when a change of code changes any number


@dataclass(frozen=True)
class Session:
    """Trials, and where and how they are judged."""

    material: VerificationData
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
) -> tuple[VerificationData, list[VerificationResult]]:
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


def _conditions(material: VerificationData) -> dict[str, Any]:
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


def _known(material: VerificationData, place: Path) -> VerificationResult:
    """A cached result under the names by which its data go today."""
    return replace(VerificationResult.read(place), **_conditions(material))


def _key(features: Features, material: VerificationData) -> str:
    facts = {
        "version": VERSION,
        "features": {"name": features.name, **features.settings},
        "material": material.digest,
        "priors": PRIORS,
        "replicates": REPLICATES,
    }
    return f"verification-{key(facts)}"


# --- Verification by a run, put where it belongs: into the run's folder, and onto its run in MLflow.


FOLDER = "verification"  # in the run's folder, and of its artifacts in MLflow; also what its metrics begin with
_LONGEST_TAG = 4000  # characters; MLflow refuses longer ones


def record(results: Sequence[VerificationResult], run: Path) -> None:
    """Results of a run and of its baselines: a file each in runs/NAME/verification; metrics and files in MLflow.

    Metrics are verification/TEST--CORPUS--…/eer/FEATURES/error, …/low and …/high, and …/min_dcf_PRIOR.
    Raises InputError if MLflow does not know the run; the files are written nevertheless.
    """
    state = read_state(run)
    for result in results:
        result.write(run / FOLDER / result.file_name)
    client = client_of(run, state["run_id"], run / FOLDER)
    for result in results:
        _record(client, result, state, run)


def _record(client: "MlflowClient", result: VerificationResult, state: dict[str, Any], run: Path) -> None:
    target, name = target_run(client, state, result.features, result.subject, run), result.metric_name
    values = dict(zip(("error", "low", "high"), result.eer, strict=True))
    values |= {f"min_dcf_{prior}": cost.value for prior, cost in result.min_dcf.items()}
    said = f"{result.corpus} {result.test}: {result.protocol}. {' '.join(result.notes)}"
    tags = {name.replace("/", "."): said[:_LONGEST_TAG]}
    log_now(client, target, {f"{name}/{k}": v for k, v in values.items()}, tags)
    client.log_artifact(target, str(run / FOLDER / result.file_name), FOLDER)


# --- What `cpc verify` does: a run or a checkpoint on the trials of a corpus, with what belongs to a run recorded.


@dataclass(frozen=True)
class VerificationConfig:
    """What the user asked for besides RUN and CORPUS; `keep_trials` is a file to write the trials to."""

    choice: Choice = field(default_factory=Choice)
    layers: Sequence[str] = ("z", "c")
    baselines: bool = True
    keep_trials: Path | None = None
    device: str = "cpu"
    progress: bool = True


def evaluate(run: Path, source: Path, asked: VerificationConfig | None = None) -> list[VerificationResult]:
    """Verification by RUN on the packed corpus SOURCE; what belongs to a run is recorded in its folder and in MLflow.

    Raises InputError for whatever of it cannot be.
    """
    asked = asked or VerificationConfig()
    corpus, tracked = Corpus.open(source), (run / "run.json").is_file()
    material, results = verify_run(
        run,
        corpus,
        asked.choice,
        layers=asked.layers,
        baselines=asked.baselines,
        cache=run.parent / ".cache" if tracked else None,
        device=asked.device,
        progress=asked.progress,
        pretrain_ids=pretrain_ids(run) if tracked else None,
    )
    if asked.keep_trials is not None:
        write_trials(asked.keep_trials, material.trials, corpus)
    if tracked:
        record(results, run)
    return results
