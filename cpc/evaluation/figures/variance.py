"""How many directions z and c use: their variances along principal axes, beside those of an untrained model."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from cpc import style
from cpc.spread import LayerName, rank_of


def draw_variance(layers: Mapping[LayerName, Mapping[str, Float64[np.ndarray, " dim"]]], path: Path) -> Path:
    """`layers[layer][name]`: variances along the principal axes, the largest first. One panel a layer.

    Each is shown as a share of its sum, so that scale does not matter; the legend gives effective ranks.
    """
    import torch

    with style.picture(path, (5.6 * len(layers), 4.4), ncols=len(layers), squeeze=False, sharey=True) as (_, axes):
        for axis, (layer, found) in zip(axes[0], layers.items(), strict=True):
            for number, (name, variances) in enumerate(found.items()):
                share = np.maximum(variances / max(variances.sum(), 1e-300), 1e-12)
                rank = rank_of(torch.from_numpy(variances))
                label = f"{style.shorten(name)}: {rank:.0f} of {len(variances)} directions"
                axis.plot(np.arange(1, len(share) + 1), share, color=style.colour(number), label=label)
            axis.set(title=f"{layer}: share of the variance", xlabel="principal axis", yscale="log", ylim=(1e-7, 1))
            axis.legend(loc="lower left")
    return path
