"""Accuracy and bound against the horizon k (van den Oord 2018, figure 3), beside what needs no learning."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cpc import style
from cpc.evaluation.diagnostics import Horizon


def draw_horizon(runs: Mapping[str, Horizon], path: Path) -> Path:
    """One colour a run, with its 95% interval; dotted where z_t itself is the prediction; chance in grey."""
    first = next(iter(runs.values()))
    with style.picture(path, (11, 4.6), ncols=2) as (figure, (left, right)):
        for number, (name, found) in enumerate(runs.items()):
            k = np.arange(1, len(found.accuracy) + 1)
            look = {"color": style.colour(number), "marker": style.marker(number)}
            left.plot(k, found.accuracy, label=style.shorten(name), **look)
            left.fill_between(k, found.low, found.high, color=style.colour(number), alpha=0.2, linewidth=0)
            left.plot(k, found.still, ":", label=f"{style.shorten(name)}: z itself as the prediction", **look)
            right.plot(k, found.ceiling - found.loss, label=style.shorten(name), **look)
        for found in {(f.chance, f.ceiling): f for f in runs.values()}.values():
            left.axhline(found.chance, color=style.GREY, linestyle="--", label=f"chance, {found.chance:.2%}")
            right.axhline(
                found.ceiling, color=style.GREY, linestyle="--", label=f"ceiling ln(1 + M), {found.ceiling:.2f}"
            )
        step = f"k, steps of {first.hop_ms:g} ms"
        left.set(title="the positive is found among the negatives (share of anchors)", xlabel=step, ylim=(0, 1))
        right.set(title="lower bound on the mutual information of c and z, in nats", xlabel=step)
        right.set_ylim(min(0.0, right.get_ylim()[0]), None)
        for axis in (left, right):
            axis.legend()
            axis.xaxis.get_major_locator().set_params(integer=True)
        figure.suptitle(
            f"{first.utterances} utterances; bands: 95% intervals over utterances", fontsize=9, x=0.99, ha="right"
        )
    return path
