"""Runs in MLflow as training, probing and sweeps leave them, without the hours that those take."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow.entities import Metric, Param, RunTag

from cpc.evaluation.results import Count, ProbeResult
from cpc.tracking.mlflow import connect, experiment_id

UTTERANCES = 40


def add(
    root: Path,
    name: str,
    params: Mapping[str, object] | None = None,
    probes: Mapping[str, float] | None = None,
    *,
    experiment: str = "exp",
    kind: str | None = None,
    parent: str | None = None,
    status: str = "FINISHED",
    half: float = 0.01,
    metrics: Mapping[str, Sequence[tuple[int, float]]] | None = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """A run with results `TASK/SPLIT/FEATURES` → accuracy ± half, and curves; gives its id."""
    client = connect(root)
    kinds = {"kind": kind} if kind else {}
    names = {"features": name} if kind == "baseline" else {}
    parents = {"mlflow.parentRunId": parent} if parent else {}
    own = {**kinds, **names, **parents, **(tags or {})}
    run = client.create_run(experiment_id(client, experiment, root), run_name=name, tags=own)
    now = int(time.time() * 1000)
    points = [Metric(name, value, now, step) for name, curve in (metrics or {}).items() for step, value in curve]
    for stem, value in (probes or {}).items():
        kind_, measure = ("", "error") if stem.startswith("abx/") else ("probe/", "accuracy")
        parts = {measure: value, "low": value - half, "high": value + half}
        points += [Metric(f"{kind_}{stem}/{part}", number, now, 0) for part, number in parts.items()]
    settings = [Param(key, str(value)) for key, value in (params or {}).items()]
    client.log_batch(run.info.run_id, points, settings, [RunTag("device", "a CPU")])
    if status != "RUNNING":
        client.set_terminated(run.info.run_id, status)
    return str(run.info.run_id)


def add_result(root: Path, run_id: str, hits: Sequence[int], *, features: str = "CPC c", total: int = 100) -> None:
    """The result of the phone probe on `test`, utterance by utterance, as an artifact of the run."""
    accuracy = sum(hits) / (total * len(hits))
    counts = tuple(Count(f"u{i:02d}", f"s{i % 4}", n, total) for i, n in enumerate(hits))
    result = ProbeResult(
        task="phone", features=features, accuracy=accuracy, low=accuracy - 0.01, high=accuracy + 0.01, majority=0.1,
        classes=5, train="train", test="test", train_utterances=9, test_utterances=len(hits), train_examples=900,
        test_examples=total * len(hits), iterations=5, converged=True, corpus="made", protocol="by hand",
        notes=("Nobody was asked.",), utterances=counts,
    )  # fmt: skip
    folder = root / "scratch" / run_id
    folder.mkdir(parents=True, exist_ok=True)
    result.write(folder / result.file_name)
    connect(root).log_artifact(run_id, str(folder / result.file_name), "probes")
