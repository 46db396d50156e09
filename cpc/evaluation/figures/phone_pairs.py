"""ABX error by pair of phones: which contrasts the features keep apart, and which not."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cpc import style
from cpc.evaluation.figures.confusion import frame_groups, write_cells
from cpc.evaluation.phones import by_manner


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
