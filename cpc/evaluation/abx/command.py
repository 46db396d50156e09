"""What `cpc abx` does: a run, a checkpoint or a folder of arrays, on a packed corpus or an `.item` file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cpc.config import InputError
from cpc.corpus import Corpus
from cpc.evaluation.abx.bank import folder_bank
from cpc.evaluation.abx.items import Unit, read_items, write_items
from cpc.evaluation.abx.material import Material, aligned_material, listed_material
from cpc.evaluation.abx.record import record
from cpc.evaluation.abx.result import ABXResult, usual_unit
from cpc.evaluation.abx.session import abx_run
from cpc.evaluation.abx.task import Task, abx, choose
from cpc.evaluation.record import pretrain_ids
from cpc.files import write_json
from cpc.model import CHECKPOINTS


@dataclass(frozen=True)
class Asked:
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
    def task(self) -> Task:
        """Raises InputError for a word that is not known."""
        caps = {"most_items": self.most_items, "most_speakers": self.most_speakers}
        return Task.named(self.speaker, self.context, self.distance, self.slicing, **caps, seed=self.seed)

    @property
    def kind(self) -> Unit:
        """Raises InputError for a unit that is not known."""
        unit: Unit = choose("unit", self.unit or usual_unit(self.context), Unit)
        return unit


def evaluate(features: Path, source: Path, asked: Asked | None = None) -> list[ABXResult]:
    """ABX of FEATURES on SOURCE; what belongs to a run is recorded in its folder and in MLflow.

    Raises InputError for whatever of it cannot be.
    """
    asked = asked or Asked()
    task = asked.task
    if features.is_dir() and not any((features / name).is_file() for name in CHECKPOINTS):
        results = [_folder(features, source, asked, task)]
    else:
        results = _model(features, source, asked, task)
    if asked.out is not None:
        write_json(asked.out, [result.to_dict() for result in results])
    return results


def _model(run: Path, source: Path, asked: Asked, task: Task) -> list[ABXResult]:
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


def _folder(folder: Path, source: Path, asked: Asked, task: Task) -> ABXResult:
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


def _material(corpus: Corpus, asked: Asked) -> Material:
    if asked.items is not None:
        material = listed_material(corpus, asked.items)
    else:
        made = aligned_material(corpus, asked.kind, asked.split, asked.labels)
        material = replace(made, labels=asked.labels)
    if asked.keep_items is not None:
        write_items(asked.keep_items, material.items)
    return material
