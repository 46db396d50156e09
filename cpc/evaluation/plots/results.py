"""Results with their 95% intervals, one panel a task: what can be told apart, at a glance."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cpc import plotting as style
from cpc.evaluation.compare import heading_of
from cpc.evaluation.experiment import Row, best, tasks
from cpc.evaluation.results import headings

_PANELS = 4  # in one row of panels
_LONGEST = 34  # letters of a row's name


def draw_intervals(table: Sequence[Row], path: Path) -> Path:
    """A point and its interval for every row and task; baselines in grey; a line where the best is."""
    found = tasks(table)
    shown_as = headings(found)
    shown = [row for row in table if row.metrics]
    names = [style.shorten(f"{row.name} {row.features}".strip(), _LONGEST) for row in shown]
    across = min(_PANELS, len(found))
    down = -(-len(found) // across)
    size = (3.1 * across + 2.3, down * (1.2 + 0.27 * len(shown)))
    with style.picture(path, size, nrows=down, ncols=across, squeeze=False, sharey=True) as (_, axes):
        for task, axis in zip(found, axes.flat, strict=False):
            for place, row in enumerate(shown):
                if task in row.metrics:
                    value, low, high = (100 * number for number in row.metrics[task])
                    look = {"color": style.GREY if row.is_baseline else style.colour(0)}
                    axis.plot([low, high], [place, place], linewidth=2.2, solid_capstyle="butt", **look)
                    axis.plot([value], [place], "o", markersize=5, **look)
            axis.axvline(100 * best(table, task), color=style.colour(1), linewidth=0.8, linestyle="--")
            axis.set_title(heading_of(shown_as[task]), fontsize=9)
        for axis in axes.flat[len(found) :]:
            axis.set_visible(False)
        axes[0][0].set(yticks=range(len(shown)), ylim=(len(shown) - 0.4, -0.6))
        for row in axes:
            row[0].set_yticklabels(names)
    return path


# --- Accuracy against the share of the labels that the classifier was given.


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
