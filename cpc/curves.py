"""Training curves: read from MLflow, drawn as one picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from mlflow.tracking import MlflowClient

Curve = list[tuple[int, float]]
History = dict[str, Curve]
NAMES = ("train/loss", "valid/loss", "train/accuracy", "valid/accuracy", "speed/real_time_factor")


def history(client: "MlflowClient", run_id: str) -> History:
    """Each curve of a run as (step, value), in the order of steps; accuracy by k as it is at the end."""
    found = {name: _curve(client, run_id, name) for name in NAMES}
    last = client.get_run(run_id).data.metrics
    for prefix in ("train", "valid"):
        keys = sorted(k for k in last if k.startswith(f"{prefix}/accuracy_k/"))
        found[f"{prefix}/accuracy_k"] = [(int(k.rpartition("/")[2]), last[k]) for k in keys]
    found["ceiling"] = [(0, last["train/ceiling"])] if "train/ceiling" in last else []
    return found


def _curve(client: "MlflowClient", run_id: str, name: str) -> Curve:
    return sorted({m.step: m.value for m in client.get_metric_history(run_id, name)}.items())


def draw(runs: Mapping[str, History], path: Path) -> Path:
    """Loss, accuracy, and accuracy against the horizon k: one colour a run, dashed where speakers are unseen."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    for number, (run, curves) in enumerate(runs.items()):
        colour = f"C{number % 10}"
        for prefix, style in (("train", "-"), ("valid", "--")):
            label = run if prefix == "train" else None
            _line(axes[0], curves[f"{prefix}/loss"], colour, style, label)
            _line(axes[1], curves[f"{prefix}/accuracy"], colour, style, label)
            _line(axes[2], curves[f"{prefix}/accuracy_k"], colour, style + "o", label)
    ceiling = next((c["ceiling"][0][1] for c in runs.values() if c["ceiling"]), None)
    _finish(axes, ceiling)
    partial = path.with_suffix(".partial.png")
    figure.savefig(partial, dpi=110)
    plt.close(figure)
    partial.replace(path)
    return path


def _line(axis: "Axes", curve: Curve, colour: str, style: str, label: str | None) -> None:
    if curve:
        axis.plot(*zip(*curve, strict=True), style, color=colour, label=label, linewidth=1.3, markersize=3.5)


def _finish(axes: Any, ceiling: float | None) -> None:
    titles = (
        "InfoNCE loss (nats, mean over k)",
        "accuracy (mean over k)",
        "accuracy against the horizon k, at the end",
    )
    for axis, title, label in zip(axes, titles, ("step", "step", "k (frames of 10 ms)"), strict=True):
        axis.set(title=title, xlabel=label)
        axis.grid(alpha=0.3)
    if ceiling is not None:
        axes[0].axhline(ceiling, color="grey", linewidth=0.8, linestyle=":")
        axes[0].text(
            1,
            ceiling,
            "chance",
            ha="right",
            va="bottom",
            color="grey",
            transform=axes[0].get_yaxis_transform(),
        )
    for axis in axes[1:]:
        axis.set_ylim(0, 1)
    axes[0].plot([], [], "--", color="grey", label="unseen speakers")
    axes[0].legend(fontsize="small")
