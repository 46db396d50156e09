"""Accuracy and bound against the horizon k (van den Oord 2018, figure 3), beside what needs no learning."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cpc import style
from cpc.evaluation.diagnostics import Horizon


def draw_horizon(runs: Mapping[str, Horizon], path: Path) -> Path:
    """One colour a run, with its 95% interval; dotted where z_t itself is the prediction; chance in grey.

    On the right the lower bound on the mutual information, of the runs whose loss gives one; without any, the loss.
    """
    bounded = {name: found for name, found in runs.items() if not np.isnan(found.ceiling)}
    first = next(iter(runs.values()))
    with style.picture(path, (11, 4.6), ncols=2) as (figure, (left, right)):
        for number, (name, found) in enumerate(runs.items()):
            k = np.arange(1, len(found.accuracy) + 1)
            look = {"color": style.colour(number), "marker": style.marker(number)}
            left.plot(k, found.accuracy, label=style.shorten(name), **look)
            left.fill_between(k, found.low, found.high, color=style.colour(number), alpha=0.2, linewidth=0)
            left.plot(k, found.still, ":", label=f"{style.shorten(name)}: z itself as the prediction", **look)
            if name in bounded or not bounded:
                right.plot(k, found.ceiling - found.loss if bounded else found.loss, label=style.shorten(name), **look)
        for chance in dict.fromkeys(found.chance for found in runs.values()):
            left.axhline(chance, color=style.GREY, linestyle="--", label=f"chance, {chance:.2%}")
        for found in {found.ceiling: found for found in bounded.values()}.values():
            right.axhline(
                found.ceiling, color=style.GREY, linestyle="--", label=f"ceiling ln(1 + M), {found.ceiling:.2f}"
            )
        step = f"k, steps of {first.hop_ms:g} ms"
        left.set(title="the positive is found among the negatives (share of anchors)", xlabel=step, ylim=(0, 1))
        bound = "lower bound on the mutual information of c and z, in nats"
        right.set(title=bound if bounded else "loss (its objective gives no bound on information)", xlabel=step)
        right.set_ylim(min(0.0, right.get_ylim()[0]), None)
        for axis in (left, right):
            axis.legend()
            axis.xaxis.get_major_locator().set_params(integer=True)
        figure.suptitle(
            f"{first.utterances} utterances; bands: 95% intervals over utterances", fontsize=9, x=0.99, ha="right"
        )
    return path
