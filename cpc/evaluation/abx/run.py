"""An ABX session: the layers of a model beside the baselines; nothing is computed twice."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.evaluation import runner
from cpc.evaluation.abx.items import (
    ABXData,
    FeatureStore,
    Unit,
    aligned_material,
    corpus_banks,
    folder_bank,
    listed_material,
    read_items,
    write_items,
)
from cpc.evaluation.abx.score import REPLICATES
from cpc.evaluation.abx.task import ABXResult, ABXTask, abx, choose, usual_unit
from cpc.evaluation.features import Features, LayerName
from cpc.evaluation.leakage import Unknown, pretraining_note
from cpc.evaluation.results import SHORT, key
from cpc.evaluation.runner import load_checked, measure_cached, pretrain_ids, progress_line, with_baselines
from cpc.io import write_json
from cpc.models.checkpoint import CHECKPOINTS
from cpc.tracking.mlflow import connect

VERSION = 1  # part of every cache key: raise it when a change of code changes any number


def abx_run(
    run: Path,
    material: ABXData,
    task: ABXTask,
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
    return with_baselines(load_checked(run, layers, device), layers, baselines, measure, heard)


def abx_cached(
    group: Sequence[Features],
    material: ABXData,
    task: ABXTask,
    cache: Path | None = None,
    device: str = "cpu",
    progress: bool = False,
) -> list[ABXResult]:
    """ABX of features that come out of one pass over the audio, from `cache`/KEY.json where they are there."""

    def measure(missing: Sequence[Features]) -> Iterator[ABXResult]:
        frames = cache / "features" if cache else None
        banks = corpus_banks(missing, material.corpus, material.rows, device=device, progress=progress, cache=frames)
        return (_measured(bank, material, task, device, progress) for bank in banks)

    facts = {"labels": material.labels, "fingerprint": material.digest[:SHORT]}
    name = partial(_key, material=material, task=task)
    return measure_cached(group, cache, name, partial(_known, material), measure, **facts)


def _measured(bank: FeatureStore, material: ABXData, task: ABXTask, device: str, progress: bool) -> ABXResult:
    names = {"unit": material.unit, "corpus": material.corpus.name, "split": material.split}
    with progress_line(f"ABX {task.speaker} speakers, {task.context} context, of {bank.name}", progress) as said:
        result = abx(bank, material.items, task, **names, device=device, notes=material.notes)
        said.append(f"error {result.error:.1%}")
    return result


def _known(material: ABXData, place: Path) -> ABXResult:
    """A cached result under the names by which its data go today."""
    saved = ABXResult.read(place)
    return replace(saved, corpus=material.corpus.name, split=material.split, unit=material.unit)


def _key(features: Features, material: ABXData, task: ABXTask) -> str:
    facts = {
        "version": VERSION,
        "features": {"name": features.name, **features.settings},
        "material": material.digest,
        "notes": material.notes,
        "task": asdict(task),
        "replicates": REPLICATES,
    }
    return f"abx-{key(facts)}"


# --- ABX of a run, put where it belongs: into the run's folder, and onto its run in MLflow.


def record(results: Sequence[ABXResult], run: Path) -> None:
    """Results of a run and of its baselines: a file each in runs/NAME/abx; metrics, files and a picture in MLflow.

    Metrics are abx/SPLIT--CORPUS--…/SPEAKER-CONTEXT/FEATURES/error, …/low and …/high. The picture is of the last
    result of the run itself: the error of each pair of phones.
    Raises InputError if MLflow does not know the run; the files are written nevertheless.
    """
    picture = _draw([result for result in results if result.features.startswith("CPC")], run)
    runner.record(results, run)
    if picture:
        connect(run.parent).log_artifact(runner.read_state(run)["run_id"], str(picture), picture.parent.name)


def _draw(own: Sequence[ABXResult], run: Path) -> Path | None:
    if not own:
        return None
    from cpc.evaluation.plots.phones import draw_phone_pairs

    last = own[-1]
    title = f"ABX of {last.features}, {last.speaker} speakers, {last.context} context"
    return draw_phone_pairs(last.pairs, run / "figures" / "abx.png", title)


# --- What `cpc abx` does: a run, a checkpoint or a folder of arrays, on a packed corpus or an `.item` file.


@dataclass(frozen=True)
class ABXConfig:
    """What the user asked for besides FEATURES and SOURCE, in words; None is the usual.

    unit: triphone or phone; usually triphones, and phones where contexts are ignored.
    split: a split of the corpus, a file of ids, or one of its subsets; usually all of it.
    items: an `.item` file in place of the corpus's alignment.
    hop, first_centre: seconds, for a folder of arrays.
    keep_items, out: files to write the items, and the results, to.
    """

    speaker: str = "within"
    context: str = "within"
    unit: str | None = None
    distance: str = "angular"
    slicing: str = "centre"
    most_items: int | None = 10
    most_speakers: int | None = 5
    seed: int = 0
    split: str | None = None
    labels: str = "phones"
    items: Path | None = None
    layers: Sequence[str] = ("z", "c")
    baselines: bool = True
    hop: float | None = None
    first_centre: float | None = None
    keep_items: Path | None = None
    out: Path | None = None
    device: str = "cpu"
    progress: bool = True

    @property
    def task(self) -> ABXTask:
        """Raises InputError for a word that is not known."""
        caps = {"most_items": self.most_items, "most_speakers": self.most_speakers}
        return ABXTask.named(self.speaker, self.context, self.distance, self.slicing, **caps, seed=self.seed)

    @property
    def kind(self) -> Unit:
        """Raises InputError for a unit that is not known."""
        unit: Unit = choose("unit", self.unit or usual_unit(self.context), Unit)
        return unit


def evaluate(features: Path, source: Path, asked: ABXConfig | None = None) -> list[ABXResult]:
    """ABX of FEATURES on SOURCE; what belongs to a run is recorded in its folder and in MLflow.

    Raises InputError for whatever of it cannot be.
    """
    asked = asked or ABXConfig()
    task = asked.task
    if features.is_dir() and not any((features / name).is_file() for name in CHECKPOINTS):
        results = [_folder(features, source, asked, task)]
    else:
        results = _model(features, source, asked, task)
    if asked.out is not None:
        write_json(asked.out, [result.to_dict() for result in results])
    return results


def _model(run: Path, source: Path, asked: ABXConfig, task: ABXTask) -> list[ABXResult]:
    if source.suffix == ".item":
        remedy = f"give a packed corpus as SOURCE, and --items {source}"
        raise InputError(f"source={source}: a model needs the audio of the items; {remedy}")
    material = _material(Corpus.open(source), asked)
    tracked = (run / "run.json").is_file()
    results = abx_run(
        run,
        material,
        task,
        layers=asked.layers,
        baselines=asked.baselines,
        cache=run.parent / ".cache" if tracked else None,
        device=asked.device,
        progress=asked.progress,
        pretrain_ids=pretrain_ids(run) if tracked else None,
    )
    if tracked:
        record(results, run)
    return results


def _folder(folder: Path, source: Path, asked: ABXConfig, task: ABXTask) -> ABXResult:
    if asked.hop is None:
        rule = "must be given for a folder of arrays: the seconds from one frame to the next, 0.01 for 100 Hz"
        raise InputError(f"hop: {rule}")
    if source.suffix == ".item":
        items = read_items(source)
        bank = folder_bank(folder, items.files.tolist(), asked.hop, asked.first_centre)
        return abx(bank, items, task, split=source.stem, device=asked.device)
    material = _material(Corpus.open(source), asked)
    bank = folder_bank(folder, material.items.files.tolist(), asked.hop, asked.first_centre)
    names = {"unit": material.unit, "corpus": material.corpus.name, "split": material.split}
    return abx(bank, material.items, task, **names, device=asked.device, notes=material.notes)


def _material(corpus: Corpus, asked: ABXConfig) -> ABXData:
    if asked.items is not None:
        material = listed_material(corpus, asked.items)
    else:
        made = aligned_material(corpus, asked.kind, asked.split, asked.labels)
        material = replace(made, labels=asked.labels)
    if asked.keep_items is not None:
        write_items(asked.keep_items, material.items)
    return material
