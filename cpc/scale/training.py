"""One run on the processes of a cluster: Ray Train starts them and starts them again, the loop inside is our own.

TorchTrainer does what torchrun does: so many processes of one group, each told its rank. The losses are those of
torchrun with as many processes. When a worker or its node is lost, all start again and resume from the last checkpoint.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cpc.config import InputError, dump, load
from cpc.distributed import BACKEND
from cpc.scale.ray import INSTALL, PASSED, connected, fit_in
from cpc.tracking.mlflow import RUNS
from cpc.training.metrics import NotFinite
from cpc.training.recipe import Recipe, load_config
from cpc.training.run import Run, choose_folder, read_run, resume, train

RESTARTS = 3  # after workers that were lost


def train_on_ray(
    words: Sequence[str],
    name: str | None = None,
    folder: Path | None = None,
    root: Path = RUNS,
    *,
    address: str | None = None,
    workers: int | None = None,
    cpus: float | None = None,
    gpus: float | None = None,
) -> Run:
    """Train a recipe as runs/NAME, or resume `folder`, in `workers` processes of a cluster.

    Args:
        words: a recipe and settings; to resume, settings alone.
        name: of the run; a new one by default.
        folder: of a run to resume.
        root: where runs are kept, which all machines have to see.
        address: of the cluster's head; this machine alone by default.
        workers: how many; None for as many as the cluster has room for.
        cpus, gpus: of each; None for 1 and 0.

    Raises:
        InputError: Ray is not installed or answers, the cluster is too small, or the recipe is wrong.
        NotFinite: the loss is not a number.
    """
    cpus, gpus = 1.0 if cpus is None else cpus, gpus or 0.0
    with connected(address, at_least=(workers or 1) * cpus, shown=True):
        number = fit_in(workers, cpus, gpus)
        task: dict[str, Any] = {"folder": os.fspath(Path.cwd()), "words": list(words), "resume": None}
        if folder is not None:
            task["resume"] = str(folder)
            place = folder
        else:
            recipe = load_config(words[0], words[1:])
            place = choose_folder(recipe, name, root)
            task |= {"recipe": dump(recipe), "name": place.name, "root": str(root)}
        task["environment"] = {name: os.environ[name] for name in PASSED if name in os.environ}
        _fit(task, number, cpus, gpus)
    return read_run(place)


def _fit(task: dict[str, Any], workers: int, cpus: float, gpus: float) -> None:
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise InputError(f"engine=ray: Ray Train cannot be loaded ({error}); {INSTALL}") from None
    mail = ray.remote(_Mail).options(num_cpus=0).remote()
    with tempfile.TemporaryDirectory() as storage:  # of Ray Train's own records: the run's folder has all of ours
        trainer = TorchTrainer(
            _loop,
            train_loop_config={**task, "mail": [mail]},
            torch_config=TorchConfig(backend=BACKEND["cuda" if gpus else "cpu"]),
            scaling_config=ScalingConfig(
                num_workers=workers,
                use_gpu=bool(gpus),
                resources_per_worker={"CPU": cpus, **({"GPU": gpus} if gpus else {})},
            ),
            run_config=RunConfig(storage_path=storage, failure_config=FailureConfig(max_failures=RESTARTS)),
        )
        try:
            trainer.fit()
        except Exception as error:
            said = " ".join(str(error).split())[:300]
            remedy = "the same command resumes from the last checkpoint"
            raise InputError(f"engine=ray: training ended, {RESTARTS} new starts included ({said}); {remedy}") from None
    for kind, text in ray.get(mail.read.remote()):
        raise NotFinite(text) if kind == "NotFinite" else InputError(text)


class _Mail:
    """What a process has to say to the user, instead of being started again for it."""

    def __init__(self) -> None:
        self._letters: list[tuple[str, str]] = []

    def post(self, kind: str, text: str) -> None:
        self._letters.append((kind, text))

    def read(self) -> list[tuple[str, str]]:
        return self._letters


def _loop(task: dict[str, Any]) -> None:
    """What each process does: what it would do under torchrun."""
    import ray

    with suppress(OSError):
        os.chdir(task["folder"])
    os.environ.update(task["environment"])
    first = os.environ.get("RANK", "0") == "0"
    try:
        if task["resume"] is not None:
            resume(task["resume"], task["words"], progress=first)
        else:
            train(load(Recipe, task["recipe"]), task["name"], task["root"], progress=first)
    except (InputError, NotFinite) as error:
        ray.get(task["mail"][0].post.remote(type(error).__name__, str(error)))
    except SystemExit as error:  # another process has ended: Ray Train starts all again
        raise ConnectionError(str(error)) from None
