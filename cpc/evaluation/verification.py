"""Speaker verification: are two utterances by one speaker? By cosines of frozen features; nothing is trained."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Unpack

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from rich.table import Table
from torch import Tensor

from cpc.audio.mfcc import WINDOW
from cpc.data.corpus import Corpus
from cpc.evaluation.features import Extraction, Features, Layer, LayerName, extract_group
from cpc.evaluation.leakage import Unknown, pretraining_note
from cpc.evaluation.results import SHORT, Identity, Saved, joined, key
from cpc.evaluation.runner import (
    load_checked,
    measure_cached,
    pretrain_ids,
    progress_line,
    record,
    with_baselines,
)
from cpc.evaluation.stats import percentiles, resamplings
from cpc.evaluation.trials import MOST, TrialChoice, Trials, VerificationData, gather, write_trials
from cpc.losses.instance import load_pooling

REPLICATES = 2000  # of the bootstrap
_AT_ONCE = 1 << 25  # samples whose frames are held at once: 35 minutes, 0.4 GiB of frames of 512 numbers

Rows = Int64[np.ndarray, " utterance"]
Vectors = Float64[np.ndarray, "utterance dim"]


def embeddings(group: Sequence[Features], corpus: Corpus, rows: Rows, **how: Unpack[Extraction]) -> list[Vectors]:
    """A vector for each of the rows, for each of the features: the mean of its frames, or what a layer's pooling makes.

    The layers of one model come out of one pass over the audio. Every row must have a frame.
    """
    found = [np.empty((len(rows), 0)) for _ in group]
    for places in _blocks(corpus.samples[rows]):
        tables = extract_group(group, corpus, rows[places], **how)
        for number, table in enumerate(tables):
            vectors = np.stack([_vector(group[number], table.utterance(i)) for i in range(len(places))])
            if not found[number].size:
                found[number] = np.empty((len(rows), vectors.shape[1]))
            found[number][places] = vectors
    return found


@torch.inference_mode()
def _vector(features: Features, frames: Float32[Tensor, "frame dim"]) -> Float64[np.ndarray, " dim"]:
    pooling = features.pooling if isinstance(features, Layer) else None
    if pooling is None:
        mean: Float64[np.ndarray, " dim"] = frames.double().mean(0).numpy()
        return mean
    device = next(pooling.parameters()).device
    return np.asarray(pooling(frames[None].to(device))[0].double().cpu())


def cosines(
    vectors: Vectors, rows: Rows, train: Int64[np.ndarray, " train"], trials: Trials
) -> Float64[np.ndarray, " trial"]:
    """The cosine of the two vectors of each trial, after the mean of the training rows was taken from all.

    `rows` says, sorted, whose vectors they are. A vector equal to the mean has no direction: its cosines are 0.
    """
    centred = vectors - vectors[np.searchsorted(rows, train)].mean(0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = centred / np.where(lengths > 0, lengths, 1)
    one, other = (unit[np.searchsorted(rows, side)] for side in (trials.first, trials.second))
    alike: Float64[np.ndarray, " trial"] = np.einsum("td,td->t", one, other)
    return alike


def _blocks(samples: Rows) -> Iterator[Int64[np.ndarray, " block"]]:
    """Places of utterances of similar length, so many at once that their frames take bounded memory."""
    order = np.argsort(samples, kind="stable")
    block = np.cumsum(samples[order]) // _AT_ONCE
    yield from np.split(order, np.flatnonzero(np.diff(block)) + 1)


# --- From scores to error rates: EER and minimum detection cost, with intervals over speakers.


PRIORS = (0.05, 0.01)  # of a target: that of VoxSRC, and the one that NIST's plans and Kaldi's recipes have
_VALUES_AT_ONCE = 1 << 16  # of resampled weights: half a MiB, which the cache of a processor holds

Scores = Float[np.ndarray, " trial"]
Target = Bool[np.ndarray, " trial"]
Rates = Float64[np.ndarray, "*draw point"]
Each = Float64[np.ndarray, "*draw"]


class Estimate(NamedTuple):
    """A number and its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class DetectionSummary:
    """EER, 0 to 1, and the minimum cost for each prior of a target."""

    eer: Estimate
    min_dcf: Mapping[float, Estimate]


def detection_errors(
    scores: Scores, target: Target, weights: Float[np.ndarray, " trial"] | None = None
) -> tuple[Rates, Rates]:
    """Shares of false alarms and of misses, from the threshold that accepts all trials to the one that rejects all."""
    from sklearn.metrics import det_curve

    false_alarm, miss, _ = det_curve(target, scores, sample_weight=weights)
    return np.concatenate([[1.0], false_alarm, [0.0]]), np.concatenate([[0.0], miss, [1.0]])


def equal_error_rate(false_alarm: Rates, miss: Rates) -> Each:
    """Where false alarms and misses are equally frequent, on the straight line between the two nearest thresholds.

    The points are in the order of rising thresholds, for one list of trials or for each of several draws.
    """
    apart = false_alarm - miss
    after = np.argmax(apart <= 0, axis=-1)[..., None]  # never the first point, which accepts all
    ahead, behind = (np.take_along_axis(apart, place, -1) for place in (after - 1, after))
    left, right = (np.take_along_axis(miss, place, -1) for place in (after - 1, after))
    rate: Each = (left + ahead / (ahead - behind) * (right - left))[..., 0]
    return rate


def min_cost(false_alarm: Rates, miss: Rates, prior: float) -> Each:
    """The least expected cost over all thresholds, divided by that of the better of accepting or rejecting all.

    A miss and a false alarm cost 1 each. So minDCF = min (P · miss + (1 − P) · false alarm) / min(P, 1 − P), at most
    1: the detection cost of NIST's speaker recognition evaluations (their plans of 2008 and 2010, with other costs
    and priors; van Leeuwen & Brümmer 2007).
    """
    costs = prior * miss + (1 - prior) * false_alarm
    least: Each = np.asarray(costs.min(-1) / min(prior, 1 - prior))
    return least


def summarise(
    scores: Scores,
    target: Target,
    speakers: Int64[np.ndarray, "2 trial"],
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> DetectionSummary:
    """EER and minimum costs of a list of trials, with percentile intervals over speakers.

    Speakers are drawn with replacement. A target trial then counts as often as its speaker was drawn, a non-target
    trial as often as the product of its two speakers' counts: trials that share a speaker vary together, on either
    side of the pair (Owen 2007, the pigeonhole bootstrap; Poh, Martin & Bengio 2007 draw users, too). Draws without
    any trial of one of the kinds are skipped; with two speakers that is every second one. A draw has fewer different
    speakers, for which a threshold fits better by chance: intervals of minimum costs reach further down than up.
    """
    errors = detection_errors(scores, target)
    draws = [_measures(*drawn) for drawn in _Resampled(scores, target, speakers).curves(replicates, seed)]
    found = [
        Estimate(float(value), *percentiles(column))
        for value, column in zip(_measures(*errors), np.concatenate(draws, axis=1), strict=True)
    ]
    return DetectionSummary(found[0], dict(zip(PRIORS, found[1:], strict=True)))


def _measures(false_alarm: Rates, miss: Rates) -> Float64[np.ndarray, "measure *draw"]:
    return np.stack([equal_error_rate(false_alarm, miss), *(min_cost(false_alarm, miss, prior) for prior in PRIORS)])


class _Resampled:
    """What `detection_errors` gives, for many weightings of the same trials: they are sorted once."""

    def __init__(self, scores: Scores, target: Target, speakers: Int64[np.ndarray, "2 trial"]) -> None:
        order = np.argsort(scores, kind="stable")
        self.target = target[order]
        self.speakers = np.unique(speakers[:, order], return_inverse=True)[1].reshape(2, -1)
        self.last = np.flatnonzero(np.diff(scores[order], append=np.inf))  # of each score, where several are equal

    def curves(self, replicates: int, seed: int) -> Iterator[tuple[Rates, Rates]]:
        """Shares of false alarms and of misses, some draws at a time, without those that lack one kind of trials."""
        size = max(1, _VALUES_AT_ONCE // len(self.target))
        for block in resamplings(int(self.speakers.max()) + 1, replicates, seed):
            for start in range(0, len(block), size):
                yield self._curve(block[start : start + size].astype(np.float64))

    def _curve(self, drawn: Float64[np.ndarray, "draw speaker"]) -> tuple[Rates, Rates]:
        first = drawn[:, self.speakers[0]]
        rejected = np.cumsum(np.where(self.target, first, 0), axis=1)
        passed = np.cumsum(np.where(self.target, 0, first * drawn[:, self.speakers[1]]), axis=1)
        both = (rejected[:, -1] > 0) & (passed[:, -1] > 0)
        shares = []
        for counts in (passed[both], rejected[both]):
            below = np.concatenate([np.zeros((len(counts), 1)), counts[:, self.last]], axis=1)
            shares.append(below / counts[:, -1:])
        return 1 - shares[0], shares[1]


# --- The result of speaker verification: error rates, their intervals, and the conditions that give them their meaning.


@dataclass(frozen=True)
class VerificationResult(Saved):
    """How well cosines of features tell whether two utterances are by one speaker.

    eer: the rate at which false alarms and misses are equally frequent, with its 95% interval over speakers, 0 to 1;
        0.5 is chance.
    min_dcf: prior of a target → minimum detection cost with its interval; 1 is what deciding without listening costs.
    train: the split whose mean was taken from all vectors; test: the split, or the file, that the trials are from.
    listed: whether the trials are those of a file; other_chapters, most, seed: how they were drawn where not.
    targets, non_targets, speakers, utterances: how many there are in the trials.
    protocol: how it was measured, in one sentence; notes: what a reader has to know before comparing it.
    fingerprint: of the trials and the audio, and subject: of features whose name does not say all, such as random
        weights; both are empty in results of older versions.
    """

    KIND: ClassVar[str] = "verification result"
    FOLDER: ClassVar[str] = "verification"

    features: str
    eer: Estimate
    min_dcf: Mapping[str, Estimate]
    targets: int
    non_targets: int
    speakers: int
    utterances: int
    corpus: str
    train: str
    test: str
    listed: bool
    other_chapters: bool
    most: int
    seed: int
    protocol: str
    notes: tuple[str, ...] = ()
    fingerprint: str = ""
    subject: str = ""

    @property
    def task(self) -> str:
        """eer, and whatever differs from the usual: numbers of different lists of trials never share a name."""
        parts = ["eer"]
        parts += ["listed"] if self.listed else []
        parts += ["other_chapters"] if self.other_chapters else []
        parts += [f"most_{self.most}"] if self.most != MOST else []
        parts += [f"seed_{self.seed}"] if self.seed else []
        return "-".join(parts)

    @property
    def identity(self) -> Identity:
        """Of the split, or of the list of trials."""
        train = "" if self.train == "speaker_train" else f"from_{Path(self.train).stem}"
        where = joined(Path(self.test).stem, self.corpus, train, self.fingerprint)
        return Identity("verification", self.task, where, joined(self.slug, self.subject))

    def metrics(self) -> dict[str, float]:
        """The equal error rate with its interval, and the minimum costs."""
        values = dict(zip(("error", "low", "high"), self.eer, strict=True))
        return values | {f"min_dcf_{prior}": cost.value for prior, cost in self.min_dcf.items()}

    @property
    def description(self) -> str:
        """Corpus, trials, protocol and notes."""
        return f"{self.corpus} {self.test}: {self.protocol}. {' '.join(self.notes)}"

    def _plain(self) -> dict[str, Any]:
        return {"eer": list(self.eer), "min_dcf": {prior: list(cost) for prior, cost in self.min_dcf.items()}}

    @classmethod
    def _typed(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        costs = {prior: Estimate(*cost) for prior, cost in values["min_dcf"].items()}
        return {"eer": Estimate(*values["eer"]), "min_dcf": costs}


# --- As a table for a terminal.


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
    """Trials, and where and how they are evaluated."""

    material: VerificationData
    cache: Path | None = None
    device: str = "cpu"
    progress: bool = False


def verify_run(
    run: Path,
    corpus: Corpus,
    choice: TrialChoice,
    *,
    layers: Sequence[LayerName] = ("z", "c"),
    baselines: bool = True,
    cache: Path | None = None,
    device: str = "cpu",
    progress: bool = True,
    pretrain_ids: Sequence[str] | Unknown | None = None,
) -> tuple[VerificationData, list[VerificationResult]]:
    """Verification by a model (a run folder or a checkpoint), baselines first: MFCC, log-mel, random, then its layers.

    A model that was trained with an attentive pooling is evaluated by the vectors that it makes of c, too.
    `pretrain_ids` are the utterances that the model was trained on, if they are known. What was computed once is kept
    in `cache`. Raises InputError where there is nothing to compare, before anything is computed.
    """
    model = load_checked(run, layers, device)
    shortest = max(model.receptive_field, WINDOW)  # one for all features: they are evaluated on the same trials

    def usable(samples: Rows) -> Bool[np.ndarray, " utterance"]:
        long_enough: Bool[np.ndarray, " utterance"] = samples >= shortest
        return long_enough

    material = gather(corpus, choice, usable)
    session = Session(material, cache, device, progress)
    heard = pretraining_note(corpus, material.trials.rows, pretrain_ids)
    pooling = load_pooling(run, model)
    pooled = [Layer(model, "c", pooling=pooling)] if pooling else []
    return material, with_baselines(model, layers, baselines, partial(verify_cached, session=session), heard, pooled)


def verify_cached(group: Sequence[Features], session: Session) -> list[VerificationResult]:
    """Verification by features that come out of one pass over the audio, from `cache`/KEY.json where they are there."""
    material, short = session.material, session.material.digest[:SHORT]
    name = partial(_key, material=material)
    measure = partial(_measure, session)
    return measure_cached(group, session.cache, name, partial(_known, material), measure, fingerprint=short)


def _measure(session: Session, group: Sequence[Features]) -> Iterator[VerificationResult]:
    material = session.material
    frames = session.cache / "features" if session.cache else None
    found = embeddings(
        group, material.corpus, material.rows, device=session.device, progress=session.progress, cache=frames
    )
    return (_measured(features, vectors, session) for features, vectors in zip(group, found, strict=True))


def _measured(features: Features, vectors: Vectors, session: Session) -> VerificationResult:
    material, trials = session.material, session.material.trials
    speakers = material.corpus.groups("speaker")[1]
    with progress_line(f"verification by {features.name}", session.progress) as said:
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


def _protocol(choice: TrialChoice) -> str:
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


# --- What `cpc verify` does: a run or a checkpoint on the trials of a corpus, with what belongs to a run recorded.


@dataclass(frozen=True)
class VerificationConfig:
    """What the user asked for besides RUN and CORPUS; `keep_trials` is a file to write the trials to."""

    choice: TrialChoice = field(default_factory=TrialChoice)
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
