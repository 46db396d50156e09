"""A run: its folder, its MLflow run, and its way from start to an honest end.

runs/NAME/ holds config.yaml (every setting), run.json (name, MLflow id, status, latest metrics), last.safetensors and
best.safetensors. Each file is written whole or not at all, so that a kill at any moment leaves a folder to resume from.

Under torchrun all processes train one run. The first one decides which, and it alone writes, tracks and shows.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cpc import distributed
from cpc.config import InputError, dump, flatten, load, upgrade
from cpc.device import device_name, threads_hint
from cpc.distributed import World
from cpc.io import DiskFull, locked, write_json, write_text
from cpc.losses.cpc import CPCLoss, CPCLossConfig
from cpc.models import checkpoint
from cpc.models.convert import ELSEWHERE, Converted
from cpc.models.heads import BilinearConfig
from cpc.tracking.mlflow import JOURNAL, RUNS, Status, Tracker, log_model, new_run
from cpc.training.cuda_graph import compile_obstacle, graph_obstacle
from cpc.training.progress import Display, stoppable
from cpc.training.recipe import Recipe
from cpc.training.trainer import Hopeless, Trainer


class RunExists(InputError):
    """The run's folder holds a run with other settings, or one that another process is training."""


@dataclass(frozen=True)
class Run:
    """What training leaves behind.

    path: the run's folder.
    run_id: of the run in MLflow.
    status: FINISHED, or KILLED (by a signal: resume it).
    metrics: the latest value of each.
    steps: updates that were done.
    seconds: spent training, over every resumption.
    """

    path: Path
    run_id: str
    status: str
    metrics: dict[str, float]
    steps: int
    seconds: float

    @property
    def checkpoint(self) -> Path:
        """The newest weights, with everything needed to resume from them."""
        return self.path / "last.safetensors"


def train(
    recipe: Recipe,
    name: str | None = None,
    root: Path | str = RUNS,
    progress: bool = True,
    parent: str | None = None,
    hopeless: Hopeless | None = None,
) -> Run:
    """Train a recipe as runs/NAME, or resume it where it stopped.

    A run of that name with the same settings is resumed, or given back if it is finished. Where torchrun has started
    its processes again after a failure, the run that failed is found without its name.

    Args:
        recipe: every setting.
        name: of the folder below `root`; by default the experiment's name with the next number.
        root: folder of all runs.
        progress: shows a bar, or a line now and then.
        parent: id of the MLflow run that a new one is shown under (a sweep).
        hopeless: asked after each validation, with the step and the metrics, whether to stop early; the status is then
            KILLED.

    Returns:
        the run, finished or stopped by a signal.

    Raises:
        RunExists: a run of that name has other settings, or is being trained by another process.
        NotFinite: the loss is not a number; the last good checkpoint is kept.
    """

    def choose() -> tuple[Path, Run | None]:
        folder = choose_folder(recipe, name, root)
        return folder, _finished(folder, recipe)

    with _world(recipe) as world:
        folder, finished = world.agreed(choose)
        return finished or _train(_start(recipe, world, folder), folder, progress, parent, hopeless)


def choose_folder(recipe: Recipe, name: str | None, root: Path | str = RUNS) -> Path:
    """The folder of a run of that name, or of a new one. Raises RunExists where it holds a run with other settings."""
    folder = Path(root) / name if name else _unnamed(Path(root), recipe)
    if differ := _differences(folder, recipe):
        raise RunExists(
            f"name={folder.name}: {folder} exists with other settings ({'; '.join(differ[:4])}); "
            f"choose another --name, resume it with --resume {folder}, or move it away"
        )
    return folder


def read_run(folder: Path) -> Run:
    """What a run's folder says of it."""
    state = _read_json(folder / "run.json")
    return Run(folder, state["run_id"], state["status"], state["metrics"], state["step"], state["seconds"])


def resume(folder: Path | str, overrides: Sequence[str] = (), progress: bool = True) -> Run:
    """Resume a run from its last checkpoint, in the same MLflow run.

    Args:
        folder: of the run, runs/NAME.
        overrides: settings to change, such as `training.max_steps=20000`; only those of `training` may be.
        progress: shows a bar, or a line now and then.

    Returns:
        the run, finished or stopped by a signal.

    Raises:
        InputError: no run there, or a setting that may not change.
        NotFinite: the loss is not a number; the last good checkpoint is kept.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").exists():
        raise InputError(f"resume={folder}: holds no config.yaml; give the folder of a run, runs/NAME")
    other = [o for o in overrides if not o.startswith("training.")]
    if other:
        raise InputError(f"override {other[0]!r}: a resumed run keeps its settings; only training.* may change")
    recipe = _settings(folder, overrides)
    with _world(recipe) as world:
        finished = world.agreed(lambda: _finished(folder, recipe))
        return finished or _train(_start(recipe, world, folder), folder, progress)


@contextmanager
def _world(recipe: Recipe) -> Iterator[World]:
    """The processes that train together; the end of one of them ends the others in one line."""
    try:
        with distributed.start(recipe.training.device) as world:
            yield world
    except ConnectionError as error:
        raise SystemExit(f"cpc: {error}; the same command resumes from the last checkpoint") from None


def _start(recipe: Recipe, world: World, folder: Path) -> Trainer:
    """A job at step 0; where it is to be restored, what its first weights came from is not needed any more."""
    return Trainer.start(recipe, world, new=not world.agreed((folder / "last.safetensors").exists))


def _train(
    job: Trainer, folder: Path, progress: bool, parent: str | None = None, hopeless: Hopeless | None = None
) -> Run:
    """Nothing is written before the job could be built, so a wrong recipe leaves no folder behind."""
    with ExitStack() as inside:
        job.world.agreed(lambda: inside.enter_context(_locked_folder(folder, job.recipe)))
        return _tracked(job, folder, progress, parent, hopeless)


def _tracked(job: Trainer, folder: Path, progress: bool, parent: str | None, hopeless: Hopeless | None) -> Run:
    last, recipe = folder / "last.safetensors", job.recipe
    known, saved = job.world.agreed(lambda: (_read_json(folder / "run.json"), last.exists()))
    if saved:
        job.restore(last)
    settings = flatten(dump(recipe))
    tracker = None
    if job.world.first:
        tracker = Tracker(recipe.experiment, folder, settings, known.get("run_id"), parent)
    run_id = job.world.agreed(lambda: tracker.run_id if tracker else "")
    job.identity = {"name": folder.name, "run_id": run_id}
    display = Display(folder.name, job.step, recipe.training.max_steps, progress and job.world.first)
    status: Status = "FAILED"
    metrics = dict(known.get("metrics", {}))
    try:
        if tracker:
            _write_state(folder, job, "RUNNING", metrics)
            _announce_run(job, tracker, display)
        if job.hold():
            display.say("the corpus is held on the GPU")
        with stoppable() as stop:
            metrics |= job.fit(folder, tracker, display, stop, hopeless)
        status = "KILLED" if job.step < recipe.training.max_steps else "FINISHED"
        if tracker and status == "FINISHED":
            _publish(folder, tracker)
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except DiskFull as error:
        raise InputError(f"{error}, or: cpc train --resume {folder}") from None
    finally:
        display.close()
        if tracker:
            tracker.close(status)
            job.identity["run_id"] = tracker.run_id  # which a store that was away at the beginning gives later
            _write_state(folder, job, status, metrics)
    return Run(folder, job.identity["run_id"], status, metrics, job.step, job.seconds)


def _announce_run(job: Trainer, tracker: Tracker, display: Display) -> None:
    """Say and record what is about to happen."""
    device = device_name(job.device)
    hours = float(job.windows.lengths.sum()) / job.corpus.sample_rate / 3600
    parameters = sum(p.numel() for p in job.parameters)
    if job.world.size > 1:
        device = f"{job.world.size} processes, each {device}"
    tracker.tag({"device": device, "precision": job.precision, "corpus_digest": job.corpus.digest})
    tracker.corpus(job.corpus, "training")
    display.say(
        f"{len(job.windows.rows)} utterances, {hours:.2f} h; {parameters:,} parameters; {device}, {job.precision}"
    )
    if job.windows.unknown:
        display.say(f"{job.windows.unknown} utterances have no known speaker, which this recipe needs: skipped")
    if job.windows.too_short:
        short, samples = job.windows.too_short, job.recipe.data.window_size
        display.say(f"{short} utterances are shorter than data.window_size={samples} and are not trained on")
    if job.device.type == "cpu" and job.world.size == 1 and (hint := threads_hint()):
        display.say(hint)
    if job.device.type == "cuda":
        settings = job.recipe.training
        if settings.cuda_graph == "auto" and (reason := graph_obstacle(job.recipe, job.world)):
            display.say(f"plain launches, not a CUDA graph: {reason}")
        if settings.compile == "auto" and (reason := compile_obstacle(job.recipe, job.world)):
            display.say(f"the encoder is not compiled: {reason}")
    if job.origin and not job.step:
        display.say(f"starts from {job.origin}")
    if job.step:
        display.say(f"resumed at step {job.step}")


def _publish(folder: Path, tracker: Tracker) -> None:
    """The finished run's settings, model and curves as MLflow artifacts."""
    tracker.artifact(folder / "config.yaml")
    tracker.model(folder / "last.safetensors")
    _publish_curves(folder, tracker)


def _publish_curves(folder: Path, tracker: Tracker) -> None:
    from cpc.tracking.curves import draw, history

    tracker.flush()
    if not tracker.is_away:
        tracker.artifact(draw({folder.name: history(tracker.client, tracker.run_id)}, folder / "curves.png"))


def _finished(folder: Path, recipe: Recipe) -> Run | None:
    """The run, if it has nothing left to do."""
    state = _read_json(folder / "run.json")
    if state.get("status") != "FINISHED" or state["step"] < recipe.training.max_steps:
        return None
    if (folder / JOURNAL).exists():  # the tracking store was away when it finished
        tracker = Tracker(recipe.experiment, folder, flatten(dump(recipe)), state["run_id"])
        _publish_curves(folder, tracker)
        tracker.close("FINISHED")
        write_json(folder / "run.json", state | {"run_id": tracker.run_id})
        state["run_id"] = tracker.run_id
    return Run(folder, state["run_id"], "FINISHED", state["metrics"], state["step"], state["seconds"])


def _differences(folder: Path, recipe: Recipe) -> list[str]:
    """Settings of the run in a folder that a recipe would change."""
    if not (folder / "config.yaml").exists():
        return []
    old, new = flatten(dump(_settings(folder))), flatten(dump(recipe))
    return [f"{k} {old.get(k)} → {new.get(k)}" for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]


def _settings(folder: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a run; settings that did not exist when it began have their defaults."""
    return load(Recipe, upgrade(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))), overrides)


def _unnamed(root: Path, recipe: Recipe) -> Path:
    """A new folder; where torchrun starts again what has failed, the newest one with work left on this recipe."""
    folders = (root / f"{recipe.experiment}-{number:03d}" for number in itertools.count(1))
    old = list(itertools.takewhile(Path.exists, folders))
    for folder in reversed(old if distributed.restarts() else []):
        begun = (folder / "config.yaml").exists() and not _differences(folder, recipe)
        if begun and not _finished(folder, recipe):
            return folder
    return root / f"{recipe.experiment}-{len(old) + 1:03d}"


@contextmanager
def _locked_folder(folder: Path, recipe: Recipe) -> Iterator[None]:
    """The folder, with the settings written. Only one job trains a run; its lock ends with it, whatever happens."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            busy = f"{folder}: another process is training this run; wait for it or stop it"
            held.enter_context(locked(folder / ".lock", busy))
        except DiskFull:
            raise
        except InputError as error:
            raise RunExists(str(error)) from None
        write_text(folder / "config.yaml", yaml.safe_dump(dump(recipe), sort_keys=False))
        yield


def _write_state(folder: Path, job: Trainer, status: str, metrics: dict[str, float]) -> None:
    state = {**job.identity, "experiment": job.recipe.experiment, "status": status, "step": job.step}
    write_json(folder / "run.json", state | {"seconds": job.seconds, "metrics": metrics})


def _read_json(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return state


# --- A run of a model that was trained elsewhere.


def import_run(found: Converted, folder: Path, experiment: str = "converted", source: str = "") -> Path:
    """Make a run folder, and a run in MLflow, of another tool's model; gives the folder.

    Its config.yaml has the model's settings and a loss like the one that it was trained with: a recipe to go on from,
    with `data.corpus` and `model.init` given. What a killed call has left is made anew.

    Raises:
        RunExists: the folder holds a run, or something else, already.
        InputError: a setting of the file makes no sense.
    """
    made = {"config.yaml", "last.safetensors"}  # before run.json, which makes it a run
    if folder.exists() and not (folder.is_dir() and {path.name for path in folder.iterdir()} <= made):
        raise RunExists(f"OUT={folder}: holds something already; name another folder, or move it away")
    settings, dim, batch = found.settings, found.config.encoder.widths[-1], 8
    recipe = load(
        Recipe,
        {
            "experiment": experiment,
            "data": {
                "corpus": ELSEWHERE,
                "batch_size": batch,
                "same_speaker_batches": settings.get("samplingType") == "samespeaker",
            },
            "model": dump(found.config),
            "loss": {
                "prediction_steps": found.steps or CPCLossConfig().prediction_steps,
                "heads": dump(found.heads or BilinearConfig()),
                "score": {"kind": "dot", "scale": 1 / dim},
                "negatives": {
                    "kind": "uniform",
                    "num_negatives": settings.get("negativeSamplingExt") or 128,
                    "cross_sequence_fraction": (batch - 1) / batch,
                },
                "group_size": batch,
            },
            "optim": {"lr": settings.get("learningRate") or 2e-4},
        },
    )
    if not isinstance(recipe.loss, CPCLossConfig):
        raise TypeError(f"loss={type(recipe.loss).__name__}: must be CPCLossConfig")
    criterion = CPCLoss.build(recipe.loss, dim, found.config.context.hidden)
    if found.head_weights:
        criterion.load_state_dict(found.head_weights)
    modules = {"model": found.build(), "loss": criterion}
    write_text(folder / "config.yaml", yaml.safe_dump(dump(recipe), sort_keys=False))
    run_id = new_run(folder, experiment, flatten(dump(recipe)), {"kind": "converted", "source": source})
    identity = {"name": folder.name, "run_id": run_id}
    header = {"config": dump(recipe), "step": 0, "corpus": "", "precision": "fp32", **identity}
    checkpoint.save(folder / "last.safetensors", modules, None, header)
    log_model(run_id, folder / "last.safetensors")  # so that it is served as any other
    state = {**identity, "experiment": experiment, "status": "FINISHED", "step": 0, "seconds": 0.0, "metrics": {}}
    write_json(folder / "run.json", state)
    return folder
