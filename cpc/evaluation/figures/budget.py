"""Accuracy against the share of the labels that the classifier was given."""

from collections.abc import Mapping
from pathlib import Path

from cpc import style

Budgets = Mapping[str, Mapping[str, list[tuple[float, float, float, float]]]]


def draw_budgets(tasks: Budgets, path: Path) -> Path:
    """`tasks[task][features]`: (percent of the labels, accuracy, low, high), in the order of the percentages."""
    with style.picture(path, (5.6 * len(tasks) + 1.5, 4.4), ncols=len(tasks), squeeze=False) as (_, axes):
        for axis, (task, found) in zip(axes[0], tasks.items(), strict=True):
            for number, (features, points) in enumerate(found.items()):
                share, *values = zip(*points, strict=True)
                accuracy, low, high = ([100 * value for value in each] for each in values)
                look = {"color": style.colour(number), "marker": style.marker(number)}
                axis.plot(share, accuracy, label=style.shorten(features), **look)
                axis.fill_between(share, low, high, color=style.colour(number), alpha=0.15, linewidth=0)
            axis.set(title=f"{task}: accuracy %", xlabel="% of the training utterances with labels", xscale="log")
            ticks = sorted({point[0] for points in found.values() for point in points})
            axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.xaxis.set_minor_locator(_none())
            axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return path


def _none() -> object:
    from matplotlib.ticker import NullLocator

    return NullLocator()
