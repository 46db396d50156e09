"""Training curves: read from MLflow, drawn as one picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cpc import plotting as style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from mlflow.tracking import MlflowClient

Curve = list[tuple[int, float]]
History = dict[str, Curve]
NAMES = (
    *("train/loss", "valid/loss", "train/accuracy", "valid/accuracy", "speed/real_time_factor"),
    *("optim/lr", "optim/gradient_norm", "spread/z/effective_rank", "spread/c/effective_rank"),
)
MOST_NAMED = 16  # runs that a legend can hold


def history(client: "MlflowClient", run_id: str) -> History:
    """Each curve of a run as (step, value), in the order of steps; accuracy by k as it is at the end."""
    last = client.get_run(run_id).data.metrics
    found = {name: _curve(client, run_id, name) if name in last else [] for name in NAMES}
    for prefix in ("train", "valid"):
        for kind in ("accuracy_k", "loss_k"):
            keys = sorted(k for k in last if k.startswith(f"{prefix}/{kind}/"))
            found[f"{prefix}/{kind}"] = [(int(k.rpartition("/")[2]), last[k]) for k in keys]
    for name in ("ceiling", "bound"):  # a loss whose value at chance is known need not bound the information
        found[name] = [(0, last[f"train/{name}"])] if f"train/{name}" in last else []
    return found


def _curve(client: "MlflowClient", run_id: str, name: str) -> Curve:
    return sorted({m.step: m.value for m in client.get_metric_history(run_id, name)}.items())


def draw(runs: Mapping[str, History], path: Path) -> Path:
    """Loss, accuracy, accuracy and bound against the horizon k, gradient norm, rank: one colour a run.

    Dashed where the speakers are not trained on.
    """
    with style.picture(path, (13, 8), nrows=2, ncols=3) as (figure, axes):
        for number, (run, curves) in enumerate(runs.items()):
            _run(axes, curves, number, run)
        _finish(axes, runs)
        named = list(dict.fromkeys(runs))[:MOST_NAMED]
        handles, labels = axes[0][0].get_legend_handles_labels()
        if len(runs) > len(named):
            figure.suptitle(f"the first {len(named)} of {len(runs)} runs are named", fontsize=9, color=style.GREY)
        kept = [*zip(handles, labels, strict=True)]
        kept = kept[: len(named)] + kept[-1:]  # the last one explains the dashes
        figure.legend(*zip(*kept, strict=True), loc="outside lower center", ncols=min(4, len(kept)))
    return path


def _run(axes: "list[list[Axes]]", curves: History, number: int, run: str) -> None:
    (loss, accuracy, horizon), (bound, norm, rank) = axes
    ceiling = curves["ceiling"][0][1] if curves["ceiling"] else None
    for prefix, dash in (("train", "-"), ("valid", "--")):
        look = {"color": style.colour(number), "linestyle": dash}
        # Where colours repeat, a few markers along the line tell the runs apart.
        apart = {} if number < len(style.PALETTE) else {"marker": style.marker(number), "markevery": 0.2}
        _line(
            loss, curves.get(f"{prefix}/loss"), label=style.shorten(run, 30) if dash == "-" else None, **look, **apart
        )
        _line(accuracy, curves.get(f"{prefix}/accuracy"), **look, **apart)
        _line(horizon, curves.get(f"{prefix}/accuracy_k"), marker=style.marker(number), **look)
        if ceiling is not None and curves.get("bound"):
            bounds = [(k, ceiling - value) for k, value in curves.get(f"{prefix}/loss_k", [])]
            _line(bound, bounds, marker=style.marker(number), **look)
    _line(norm, curves.get("optim/gradient_norm"), color=style.colour(number))
    for layer, dash in (("z", ":"), ("c", "-")):
        _line(rank, curves.get(f"spread/{layer}/effective_rank"), color=style.colour(number), linestyle=dash)


def _line(axis: "Axes", curve: Curve | None, **look: object) -> None:
    if curve:
        shown = {"marker": "o"} if len(curve) == 1 else {}  # one point alone would be invisible as a line
        axis.plot(*zip(*curve, strict=True), **{**shown, **look})  # type: ignore[arg-type]


TITLES = (
    ("InfoNCE loss (nats, mean over k)", "accuracy (mean over k)", "accuracy against the horizon, at the end"),
    ("bound on mutual information, at the end (nats)", "gradient norm", "effective rank: c solid, z dotted"),
)
LABELS = (("step", "step", "k (frames ahead)"), ("k (frames ahead)", "step", "step"))


def _finish(axes: "list[list[Axes]]", runs: Mapping[str, History]) -> None:
    for row, titles, labels in zip(axes, TITLES, LABELS, strict=True):
        for axis, title, label in zip(row, titles, labels, strict=True):
            axis.set(title=title, xlabel=label)
            if not axis.lines:
                weighed = axis is axes[1][0] and any(curves["ceiling"] for curves in runs.values())
                style.blank(axis, "this loss gives no bound" if weighed else "not measured")
    for ceiling in sorted({c["ceiling"][0][1] for c in runs.values() if c["ceiling"]}):
        _label_level(axes[0][0], ceiling, "chance")
    for ceiling in sorted({c["ceiling"][0][1] for c in runs.values() if c["ceiling"] and c.get("bound")}):
        _label_level(axes[1][0], ceiling, "ceiling")
    for axis in axes[0][1:]:
        axis.set_ylim(0, 1)
    if axes[1][1].lines:
        axes[1][1].set_yscale("log", subs=(2, 5))
        for part in ("major", "minor"):
            getattr(axes[1][1].yaxis, f"set_{part}_formatter")("{x:.3g}")
    axes[0][0].plot([], [], "--", color=style.GREY, label="dashed: speakers not trained on")


def _label_level(axis: "Axes", height: float, name: str) -> None:
    axis.axhline(height, color=style.GREY, linewidth=0.9, linestyle=":")
    axis.set_ylim(top=max(axis.get_ylim()[1], height * 1.05))
    where = axis.get_yaxis_transform()
    axis.text(1, height, f"{name} {height:.2f}", ha="right", va="bottom", color=style.GREY, fontsize=9, transform=where)
