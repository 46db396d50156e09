"""Which phone is taken for which: a confusion matrix in the order of manners of articulation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from cpc import plotting as style
from cpc.evaluation.phones import Manner, by_manner

SHOWN = 0.095  # shares from 10% on are written into their cells


def draw_confusion(
    counts: Int64[np.ndarray, "phone phone"], inventory: Sequence[str], path: Path, title: str = ""
) -> Path:
    """`counts[i, j]`: how many frames of phone i were taken for phone j. Each row is shown as shares of its phone.

    Phones that never occur, neither truly nor as a guess, are skipped.
    """
    used = [i for i in range(len(inventory)) if counts[i].any() or counts[:, i].any()]
    groups = by_manner([inventory[i] for i in used])
    order = [used[member] for group in groups for member in group.members]
    part = counts[np.ix_(order, order)].astype(np.float64)
    shares = part / np.maximum(part.sum(1, keepdims=True), 1)
    names = [inventory[i] for i in order]
    side = max(5.0, 1.9 + 0.235 * len(order))
    with style.picture(path, (side + 0.9, side)) as (figure, axis):
        image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest", aspect="equal")
        write_cells(axis, shares)
        frame_groups(axis, groups, names)
        axis.set(xlabel="recognised as", ylabel="phone")
        overall = float(np.trace(part) / max(part.sum(), 1))
        axis.set_title(f"{title}\n{overall:.1%} of {int(part.sum()):,} frames right; rows: shares in %".strip(), pad=58)
        figure.colorbar(image, ax=axis, shrink=0.5, format=lambda share, _: f"{share:.0%}")
    return path


def write_cells(axis: Any, shares: Float64[np.ndarray, "row column"], most: float = 1.0) -> None:
    """The numbers, in %, where they matter; `most` is the share of the darkest colour."""
    for row, column in np.argwhere(shares >= SHOWN).tolist():
        share = shares[row, column]
        look = {"color": "white" if share > most / 2 else "black", "fontsize": 7}
        axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", **look)


def frame_groups(axis: Any, groups: Sequence[Manner], names: Sequence[str]) -> None:
    """Names of the phones on both sides, lines between the manners, and their names at the top and at the right."""
    places = range(len(names))
    axis.set_xticks(places, names, rotation=90, fontsize=8)
    axis.set_yticks(places, names, fontsize=8)
    axis.tick_params(length=0)
    axis.grid(False)
    start = 0
    for group in groups:
        middle, stop = start + len(group.members) / 2 - 0.5, start + len(group.members)
        for line in (axis.axhline, axis.axvline):
            line(stop - 0.5, color=style.GREY, linewidth=0.7)
        axis.text(middle, -0.9, group.name, rotation=50, ha="left", va="bottom", fontsize=8, color=style.GREY)
        axis.text(len(names) - 0.2, middle, group.name, va="center", fontsize=8, color=style.GREY)
        start = stop


# --- ABX error by pair of phones: which contrasts the features keep apart, and which not.


def draw_phone_pairs(errors: Mapping[tuple[str, str], float], path: Path, title: str = "ABX error") -> Path:
    """`errors[a, b]`: error of a pair of phones, 0 to 1; (a, b) and (b, a) are one pair, of which the mean is shown."""
    inventory = sorted({phone for pair in errors for phone in pair})
    groups = by_manner(inventory)
    names = [inventory[member] for group in groups for member in group.members]
    place = {name: i for i, name in enumerate(names)}
    sums, found = np.zeros((len(names), len(names))), np.zeros((len(names), len(names)))
    for (a, b), error in errors.items():
        row, column = max(place[a], place[b]), min(place[a], place[b])
        sums[row, column] += error
        found[row, column] += 1
    table = np.where(found > 0, sums / np.maximum(found, 1), np.nan)
    side = max(5.0, 1.9 + 0.235 * len(names))
    with style.picture(path, (side + 0.9, side)) as (figure, axis):
        image = axis.imshow(table, cmap="Blues", vmin=0, vmax=0.5, interpolation="nearest", aspect="equal")
        write_cells(axis, np.nan_to_num(table), most=0.5)
        frame_groups(axis, groups, names)
        mean = float(np.nanmean(table))
        axis.set_title(
            f"{title}\nmean over {int((found > 0).sum())} pairs {mean:.1%}; 50% is chance; cells in %", pad=58
        )
        figure.colorbar(image, ax=axis, shrink=0.5, format=lambda share, _: f"{share:.0%}")
    return path
