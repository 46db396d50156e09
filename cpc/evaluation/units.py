"""Discrete units: frames of a model clustered by k-means, what the clusters have to do with phones, and their price.

Clusters are numbers for a language model or a vocoder (Lakhotia et al. 2021). How well they stand for phones is asked
as in HuBERT (Hsu et al. 2021, section IV-C): with p(phone, unit) counted over frames,

    phone purity   Σ_unit max_phone p(phone, unit)     how often a unit's most frequent phone is right
    cluster purity Σ_phone max_unit p(phone, unit)     how little a phone is scattered over units
    PNMI           I(phone; unit) / H(phone)           the share of the uncertainty about phones that a unit takes away

and what they cost as in the ZeroSpeech challenges (Dunbar et al. 2019, section 2.3): bits a second = symbols a second ×
entropy of a symbol, where units that repeat count once.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int, Int64
from torch import Tensor

from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.data.engine import Engine, Threads, Tick, Work, Worker
from cpc.device import keep_freed_memory
from cpc.evaluation.abx.items import FeatureStore, aligned_material
from cpc.evaluation.abx.task import ABXTask, abx
from cpc.evaluation.features import FrameTable, Layer, LayerName, extract
from cpc.evaluation.results import SHORT, Identity, Saved, joined, key
from cpc.evaluation.runner import progress_line, record
from cpc.io import write_text
from cpc.models.checkpoint import load, write_tensors
from cpc.models.cpc import CPC
from cpc.seeding import derive, numpy_generator

_BLOCK_SAMPLES = 10_000_000  # of a block: about 60 MB of frames travel back from a worker
MOST_FRAMES = 1_000_000  # that the clusters are made of: beyond it they are drawn
Units = Int64[np.ndarray, " frame"]
Rows = tuple[int, Int64[np.ndarray, " row"]]  # a block of utterances, with its number
Extracted = tuple[int, Any, Int64[np.ndarray, " offset"]]  # its frames or units, and where each utterance begins


@dataclass(frozen=True)
class Codebook:
    """k centres of frames of one layer; a frame's unit is the nearest of them."""

    layer: LayerName
    centres: Float32[Tensor, "unit dim"]

    @classmethod
    def fit(cls, table: FrameTable, layer: LayerName, k: int, seed: int = 0) -> "Codebook":
        """Cluster the frames of a table (scikit-learn's MiniBatchKMeans, Sculley 2010).

        Args:
            table: frames of the training utterances.
            layer: what they are of.
            k: number of units.
            seed: of the frames that are drawn, and of the clustering.

        Raises:
            InputError: fewer frames than units.
        """
        from sklearn.cluster import MiniBatchKMeans

        frames = table.frames
        if not 2 <= k <= len(frames):
            raise InputError(f"k={k}: must lie between 2 and {len(frames)}, the frames to cluster")
        if len(frames) > MOST_FRAMES:
            places = numpy_generator(seed, "units").choice(len(frames), MOST_FRAMES, replace=False)
            frames = frames[torch.from_numpy(np.sort(places))]
        kmeans = MiniBatchKMeans(
            k, batch_size=max(10_000, 20 * k), n_init=3, random_state=derive(seed, "units") % 2**31
        )
        kmeans.fit(frames.numpy())
        return cls(layer, torch.from_numpy(kmeans.cluster_centers_.astype(np.float32)))

    def __len__(self) -> int:
        return len(self.centres)

    def __call__(self, frames: Float[Tensor, "frame dim"]) -> Units:
        """The unit of each frame, 0 … k − 1. Raises InputError for frames of another dimension."""
        if frames.shape[1] != self.centres.shape[1]:
            rule = f"has {self.centres.shape[1]} dimensions where layer {self.layer} has {frames.shape[1]}"
            raise InputError(f"codebook: {rule}; it is of another model")
        half = self.centres.square().sum(1) / 2  # ‖x − m‖² = ‖x‖² − 2 (x·m − ‖m‖²/2)
        found = [(part @ self.centres.T - half).argmax(1) for part in torch.split(frames, 1 << 16)]
        units: Units = torch.cat(found).numpy() if found else np.zeros(0, np.int64)
        return units

    def save(self, path: Path) -> None:
        """One .safetensors file: the centres, and the layer in its header."""
        write_tensors(path, {"centres": self.centres}, {"units": json.dumps({"layer": self.layer})})

    @classmethod
    def open(cls, path: Path) -> "Codebook":
        """What `save` wrote. Raises InputError for anything else."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as opened:
                return cls(json.loads((opened.metadata() or {})["units"])["layer"], opened.get_tensor("centres"))
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise InputError(f"codebook={path}: not a codebook of cpc units ({error})") from None


def deduplicated(units: Units) -> Int64[np.ndarray, " change"]:
    """Units without those that repeat the one before.

    >>> deduplicated(np.array([4, 4, 4, 1, 1, 4])).tolist()
    [4, 1, 4]
    """
    return units[np.flatnonzero(np.diff(units, prepend=-1))]


@dataclass(frozen=True)
class Purity:
    """How units stand for phones, all between 0 and 1; see the module."""

    phone: float
    cluster: float
    pnmi: float


def purity(phones: Units, units: Units, classes: int, k: int) -> Purity:
    """Of frames with a phone and a unit each.

    Args:
        phones: the phone of each frame, 0 … classes − 1; frames with a negative one are skipped.
        units: the unit of each frame, 0 … k − 1.
        classes: number of phones.
        k: number of units.

    Raises:
        InputError: no frame has a phone.
    """
    labelled = phones >= 0
    counts = np.bincount(phones[labelled] * k + units[labelled], minlength=classes * k).reshape(classes, k)
    if not counts.any():
        raise InputError("labels: no frame of these utterances has a phone; label the corpus, or name another --test")
    joint = counts / counts.sum()
    by_phone, by_unit = joint.sum(1), joint.sum(0)
    information = _entropy(by_phone) + _entropy(by_unit) - _entropy(joint.ravel())
    uncertainty = _entropy(by_phone)
    share = information / uncertainty if uncertainty > 0 else 0.0
    return Purity(float(joint.max(0).sum()), float(joint.max(1).sum()), float(min(1.0, max(0.0, share))))


def bits_per_second(sequences: Sequence[Int64[np.ndarray, " _"]], seconds: float) -> float:
    """Symbols a second times the entropy of a symbol in bits.

    >>> bits_per_second([np.array([0, 1, 0, 1])], seconds=2.0)
    2.0
    """
    symbols = np.concatenate([*sequences, np.zeros(0, np.int64)])
    if not len(symbols):
        return 0.0
    shares = np.bincount(symbols) / len(symbols)
    return float(len(symbols) * _entropy(shares) / np.log(2) / seconds)


def _entropy(shares: Float64[np.ndarray, " value"]) -> float:
    """In nats."""
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum())


@dataclass(frozen=True)
class UnitsResult(Saved):
    """What a codebook is worth on some utterances.

    k: number of units; used: how many of them occur. phone_purity, cluster_purity, pnmi: see the module, 0 to 1.
    bits_per_second: of units without repetitions; bits_per_second_frames: of one unit a frame.
    units_per_second: without repetitions. abx_within, abx_across: error of one-hot units by `cpc abx`, 0 to 1; None
    where the labels or the speakers do not allow it. train, test: splits of the codebook and of all these numbers.
    """

    KIND: ClassVar[str] = "units result"
    FOLDER: ClassVar[str] = "units"

    features: str
    k: int
    used: int
    phone_purity: float
    cluster_purity: float
    pnmi: float
    bits_per_second: float
    bits_per_second_frames: float
    units_per_second: float
    abx_within: float | None
    abx_across: float | None
    corpus: str
    train: str
    test: str
    labels: str
    utterances: int
    seed: int
    notes: tuple[str, ...] = ()
    fingerprint: str = ""
    subject: str = ""

    @property
    def identity(self) -> Identity:
        """Of the test split, and what the codebook was made of."""
        seed = f"seed_{self.seed}" if self.seed else ""
        where = joined(Path(self.test).stem, self.corpus, f"from_{Path(self.train).stem}", seed, self.fingerprint)
        return Identity("units", f"k{self.k}", where, joined(self.slug, self.subject))

    def metrics(self) -> dict[str, float]:
        """Every number."""
        values: dict[str, float | None] = {
            "phone_purity": self.phone_purity,
            "cluster_purity": self.cluster_purity,
            "pnmi": self.pnmi,
            "bits_per_second": self.bits_per_second,
            "abx_within": self.abx_within,
            "abx_across": self.abx_across,
        }
        return {name: value for name, value in values.items() if value is not None}

    @property
    def description(self) -> str:
        """On what, and how."""
        return f"{self.corpus} {self.test}: {self.k} clusters of {self.features} on {self.train}; labels {self.labels}"


@dataclass(frozen=True)
class UnitsConfig:
    """What is asked for besides RUN and CORPUS.

    k: number of units. layer: z, c, a layer below c, or several as z+c. train: split that the codebook is made of.
    test: split that it is evaluated on. split: utterances whose units are written; None for all of the corpus.
    labels: alignment of the phones. seed: of the clustering. out: folder; None for RUN/units/LAYER-K. codebook: one
    that was made before, whose units they are then; None to make one.
    """

    k: int = 100
    layer: LayerName = "c"
    train: str = "phone_train"
    test: str = "phone_test"
    split: str | None = None
    labels: str = "phones"
    seed: int = 0
    out: Path | None = None
    codebook: Path | None = None
    device: str = "cpu"
    progress: bool = True


def discover(
    run: Path, source: str | Path, asked: UnitsConfig | None = None, engine: Engine | None = None
) -> tuple[UnitsResult, Path]:
    """Cluster a model's frames, write the units of a corpus, and evaluate them.

    Writes codebook.safetensors, units.txt (`ID<tab>1,1,2,…`, a unit a frame, as the ZeroSpeech 2021 baseline has it),
    units-deduplicated.txt (without repetitions) and result.json. What belongs to a run is put on its run in MLflow.
    With an `engine` (`cpc.scale.ray`) its workers compute frames and units; clusters are made and evaluated here.

    Raises:
        InputError: unknown splits or layers, more units than frames, or no labels.
    """
    asked, engine = asked or UnitsConfig(), engine or Threads()
    corpus, model = Corpus.open(source), load(run, "cpu" if engine.device else asked.device)
    tested = np.unique(corpus.rows(asked.test))
    written = np.arange(len(corpus)) if asked.split is None else np.unique(corpus.rows(asked.split))
    alignment = corpus.labels(asked.labels)
    if asked.codebook is not None:
        book = Codebook.open(asked.codebook)
        if book.layer != asked.layer:
            raise InputError(f"codebook={asked.codebook}: is of layer {book.layer}; give --layer {book.layer}")
    else:
        rows = np.unique(corpus.rows(asked.train))
        job = _Extraction(model, str(source), asked.layer, None, engine.device)
        found = _in_order(engine, job, corpus, rows, asked.progress)
        tables = [FrameTable(torch.from_numpy(frames), offsets) for frames, offsets in found]
        table = FrameTable(torch.cat([part.frames for part in tables]), _offsets(tables))
        with progress_line(f"{asked.k} clusters of {asked.layer}", asked.progress) as said:
            book = Codebook.fit(table, asked.layer, asked.k, asked.seed)
            said.append(f"{len(table.frames):,} frames")
        del table
    folder = asked.out or (run if run.is_dir() else run.parent) / "units" / f"{asked.layer}-{len(book)}"
    book.save(folder / "codebook.safetensors")
    units = dict(
        zip(written.tolist(), quantise(engine, model, book, source, corpus, written, asked.progress), strict=True)
    )
    _write(folder / "units.txt", corpus, units)
    _write(folder / "units-deduplicated.txt", corpus, {row: deduplicated(found) for row, found in units.items()})
    missing = np.array([row for row in tested.tolist() if row not in units], dtype=np.int64)
    units |= dict(
        zip(missing.tolist(), quantise(engine, model, book, source, corpus, missing, asked.progress), strict=True)
    )
    of_test = {row: units[row] for row in tested.tolist()}
    result = _evaluate(model, book, corpus, of_test, asked, len(alignment.inventory))
    result.write(folder / "result.json")
    if (run / "run.json").is_file():
        record([result], run)
    return result, folder


def quantise(
    engine: Engine,
    model: CPC,
    book: Codebook,
    source: str | Path,
    corpus: Corpus,
    rows: Int64[np.ndarray, " row"],
    progress: bool = False,
) -> Iterator[Units]:
    """The units of some utterances of the corpus at `source`, in their order; each worker holds a block's frames."""
    job = _Extraction(model, str(source), book.layer, book, engine.device)
    for units, offsets in _in_order(engine, job, corpus, rows, progress):
        yield from np.split(units, offsets[1:-1])


@dataclass(frozen=True)
class _Extraction:
    """Frames of blocks of utterances, or with a codebook their units; `device` is where a cluster's worker computes."""

    model: CPC
    source: str
    layer: LayerName
    book: Codebook | None
    device: str | None

    def open(self) -> Worker[Rows, Extracted]:
        if self.device is not None:
            keep_freed_memory(torch.device(self.device))
            self.model.to(self.device)
        return self._extract

    def _extract(self, blocks: Iterator[Rows], tick: Tick) -> Iterator[Extracted]:
        corpus = Corpus.open(self.source)
        for number, rows in blocks:
            table = extract(self.model, corpus, rows, [self.layer])[self.layer]
            for row in rows.tolist():
                tick(int(corpus.samples[row]))
            values: Any = table.frames.numpy() if self.book is None else self.book(table.frames)
            yield number, values, np.asarray(table.offsets)


def _in_order(
    engine: Engine, job: _Extraction, corpus: Corpus, rows: Int64[np.ndarray, " row"], progress: bool
) -> list[tuple[Any, Int64[np.ndarray, " offset"]]]:
    """What the engine gives for blocks of a sixth of an hour: the same for every engine, as batches are within one."""
    ends = np.cumsum(corpus.samples[rows]) // _BLOCK_SAMPLES
    blocks = np.split(rows, np.flatnonzero(np.diff(ends)) + 1) if len(rows) else []
    name = f"{'frames' if job.book is None else 'units'} of {job.layer}"
    work = Work(name, enumerate(blocks), job.open, len(rows), corpus.sample_rate, "utterances")
    found = {number: (values, offsets) for number, values, offsets in engine.run(work, progress)}
    return [found[number] for number in range(len(blocks))]


def _offsets(tables: Sequence[FrameTable]) -> Int64[np.ndarray, " offset"]:
    """Where each utterance begins in tables that are put behind each other."""
    counts = np.concatenate([np.diff(table.offsets) for table in tables])
    return np.concatenate([[0], np.cumsum(counts)])


def _evaluate(
    model: CPC, book: Codebook, corpus: Corpus, units: Mapping[int, Units], asked: UnitsConfig, classes: int
) -> UnitsResult:
    alignment, k = corpus.labels(asked.labels), len(book)
    rows = np.array(list(units), dtype=np.int64)
    phones = [
        alignment.frames(id, model.frame_centres(len(found))) if id in alignment else np.full(len(found), -1)
        for id, found in ((corpus.ids[row], found) for row, found in units.items())
    ]
    found, flat = purity(np.concatenate(phones), np.concatenate(list(units.values())), classes, k), list(units.values())
    short = [deduplicated(each) for each in flat]
    seconds = float(corpus.samples[rows].sum()) / corpus.sample_rate
    name, notes = Layer(model, book.layer).name, list[str]()
    store = _one_hot(f"{name}, {k} units", model, corpus, units, k)
    errors = _abx(store, corpus, asked, notes)
    facts = {"corpus": corpus.digest, "codebook": _digest(book), "rows": rows.tolist(), "labels": alignment.sha256}
    return UnitsResult(
        features=name, k=k, used=len(np.unique(np.concatenate(flat))),
        phone_purity=found.phone, cluster_purity=found.cluster, pnmi=found.pnmi,
        bits_per_second=bits_per_second(short, seconds), bits_per_second_frames=bits_per_second(flat, seconds),
        units_per_second=sum(map(len, short)) / seconds, abx_within=errors["within"], abx_across=errors["across"],
        corpus=corpus.name, train=asked.train if asked.codebook is None else str(asked.codebook), test=asked.test,
        labels=asked.labels, utterances=len(rows), seed=asked.seed, notes=tuple(notes), fingerprint=key(facts)[:SHORT],
    )  # fmt: skip


def _digest(book: Codebook) -> str:
    return key({"layer": book.layer, "centres": book.centres.numpy().tobytes().hex()})


def _one_hot(name: str, model: CPC, corpus: Corpus, units: Mapping[int, Units], k: int) -> FeatureStore:
    """Units as vectors of which one dimension is 1: two are alike or orthogonal, whatever their numbers."""
    flat = np.concatenate(list(units.values()))
    frames = torch.zeros(len(flat), k)
    frames[torch.arange(len(flat)), torch.from_numpy(flat)] = 1.0
    offsets = np.concatenate([[0], np.cumsum([len(found) for found in units.values()])])
    places = {corpus.ids[row]: place for place, row in enumerate(units)}
    return FeatureStore(name, FrameTable(frames, offsets), places, model.frame_centres)


def _abx(store: FeatureStore, corpus: Corpus, asked: UnitsConfig, notes: list[str]) -> dict[str, float | None]:
    """The triphone ABX errors of one-hot units; None, and a note, where there is nothing to compare."""
    errors: dict[str, float | None] = {"within": None, "across": None}
    for speaker in errors:
        try:
            material = aligned_material(corpus, "triphone", asked.test, asked.labels)
            errors[speaker] = abx(store, material.items, ABXTask.named(speaker, "within"), device=asked.device).error
        except InputError as error:
            notes.append(f"No ABX {speaker} speakers: {error}.")
    return errors


def _write(path: Path, corpus: Corpus, units: Mapping[int, Int[np.ndarray, " unit"]]) -> None:
    lines = (f"{corpus.ids[row]}\t{','.join(map(str, found.tolist()))}" for row, found in units.items())
    write_text(path, "".join(f"{line}\n" for line in lines))


def units_table(results: Sequence[UnitsResult]) -> Any:
    """One row a result, for a terminal."""
    from rich.table import Table

    first = results[0]
    title = f"{first.corpus} {first.test}: units of {first.features}, clustered on {first.train}; % but for rates"
    table = Table(title=title, title_justify="left")
    columns = ("k", "in use", "phone purity", "cluster purity", "PNMI", "units/s", "bits/s", "ABX within", "ABX across")
    for name in columns:
        table.add_column(name, justify="right")
    for r in results:
        shares = [f"{100 * value:.1f}" for value in (r.phone_purity, r.cluster_purity, r.pnmi)]
        errors = ["–" if value is None else f"{100 * value:.2f}" for value in (r.abx_within, r.abx_across)]
        table.add_row(str(r.k), str(r.used), *shares, f"{r.units_per_second:.1f}", f"{r.bits_per_second:.0f}", *errors)
    return table
