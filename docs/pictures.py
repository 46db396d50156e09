"""Draw the pictures of the guide: python docs/pictures.py [FOLDER]. Everything is computed by `cpc.losses`."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cpc.losses.bounds import club_bound, info_nce_bound, nwj_bound
from cpc.losses.objectives import NCE, InfoNCE, Objective, PairMargin, Triplet
from cpc.plotting import PALETTE, picture

POSITIVE = 0.8  # the cosine of the worked example's positive
OTHERS = (0.0, -0.8)  # two of its negatives; the third moves


def pull(objective: Objective, cosine: float, as_score: Callable[[Tensor], Tensor]) -> float:
    """∂ loss / ∂ cosine of one negative of the worked example, while the other two stay: what pushes it away."""
    moving = torch.tensor(cosine, dtype=torch.float64, requires_grad=True)
    negatives = torch.stack([moving, *(torch.tensor(other, dtype=torch.float64) for other in OTHERS)])
    loss = objective(as_score(torch.tensor([POSITIVE], dtype=torch.float64)), as_score(negatives)[None])
    (gradient,) = torch.autograd.grad(loss.sum(), moving)
    return float(gradient)


def itself(cosine: Tensor) -> Tensor:
    """The score is the cosine."""
    return cosine


def distance(cosine: Tensor) -> Tensor:
    """The score is minus the distance of two unit vectors."""
    return -(2 - 2 * cosine).clamp_min(1e-12).sqrt()


OBJECTIVES: tuple[tuple[str, Objective, Callable[[Tensor], Tensor]], ...] = (
    ("InfoNCE, τ = 1", InfoNCE(), itself),
    ("InfoNCE, τ = 0.1 (× τ)", InfoNCE(0.1), itself),
    ("InfoNCE, β = 3", InfoNCE(concentration=3.0), itself),
    ("NCE", NCE(), itself),
    ("triplet, margin 0.2", Triplet(0.2, "all"), distance),
    ("pairwise margin 1", PairMargin(1.0), distance),
)


def draw_weights(path: Path) -> None:
    """How each objective weighs a negative by its score."""
    cosines = [-0.98 + 0.02 * step for step in range(99)]
    with picture(path, (8, 4.2)) as (_, axis):
        for number, (name, objective, as_score) in enumerate(OBJECTIVES):
            scale = objective.temperature if isinstance(objective, InfoNCE) else 1.0
            values = [scale * pull(objective, cosine, as_score) for cosine in cosines]
            axis.plot(cosines, values, color=PALETTE[number], label=name)
        axis.axvline(POSITIVE, color="black", lw=0.8, ls="--")
        axis.annotate("the positive", (POSITIVE, 1.2), (-6, 0), textcoords="offset points", ha="right", fontsize=9)
        axis.set(xlabel="cosine of anchor and negative", ylabel="∂ loss / ∂ cosine", ylim=(-0.12, 1.3))
        axis.set_title("How hard each objective pushes a negative away")
        axis.legend(loc="upper left")


def draw_gradients(path: Path) -> None:
    """The worked example in the plane: what pulls the anchor, and what pushes it."""
    keys = torch.tensor([[0.8, 0.6], [0.6, 0.8], [0.0, 1.0], [-0.8, 0.6]], dtype=torch.float64)
    with picture(path, (9, 3.6), ncols=2, sharey=True) as (_, axes):
        for axis, temperature in zip(axes, (1.0, 0.1), strict=True):
            scores = keys[:, 0]  # the anchor is (1, 0)
            share = torch.softmax(scores / temperature, 0)
            weights = torch.cat([1 - share[:1], -share[1:]]) / temperature
            _plane(axis, keys, weights, temperature)


def _plane(axis: Any, keys: Tensor, weights: Tensor, temperature: float) -> None:
    angles = [math.pi * step / 100 for step in range(-6, 107)]
    axis.plot([math.cos(a) for a in angles], [math.sin(a) for a in angles], color="#cccccc", lw=0.8)
    axis.plot(1, 0, "o", color="black")
    axis.annotate("anchor", (1, 0), (8, -4), textcoords="offset points", fontsize=9)
    names = ("positive", "negative", "negative", "negative")
    for key, weight, name in zip(keys.tolist(), weights.tolist(), names, strict=True):
        colour = PALETTE[0] if name == "positive" else PALETTE[1]
        axis.plot(*key, "o", color=colour)
        axis.annotate(f"{name} {weight:+.3f}", key, (6, 5), textcoords="offset points", color=colour, fontsize=9)
        arrow = {"arrowstyle": "->", "color": colour, "lw": 1.6, "shrinkA": 0, "shrinkB": 0}
        if abs(weight) > 0.02:
            reach = 0.8 * weight
            tip = (1 + reach * key[0], reach * key[1])
            axis.annotate("", tip, (1, 0), arrowprops=arrow)
    axis.set(xlim=(-1.2, 2.2), ylim=(-0.85, 1.15), aspect="equal", xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.set_title(f"−∂ loss / ∂ score at τ = {temperature:g}")


def draw_bounds(path: Path, dim: int = 4, batch: int = 64, draws: int = 60) -> None:
    """Bounds at the best score against the information of correlated Gaussians, and InfoNCE's ceiling."""
    truths = [0.25 * step for step in range(29)]
    found: dict[str, list[tuple[float, float]]] = {"InfoNCE": [], "NWJ": [], "CLUB (upper)": []}
    for truth in truths:
        rho = math.sqrt(1 - math.exp(-2 * truth / dim))
        drawn = [_densities(rho, dim, batch, seed) for seed in range(draws)]
        for name, values in (
            ("InfoNCE", [info_nce_bound(best) for _, best in drawn]),
            ("NWJ", [nwj_bound(best + 1) for _, best in drawn]),
            ("CLUB (upper)", [club_bound(likely) for likely, _ in drawn]),
        ):
            stacked = torch.stack(values)
            found[name].append((float(stacked.mean()), float(stacked.std())))
    with picture(path, (8, 4.2)) as (_, axis):
        axis.axhline(math.log(batch), color="black", lw=0.8, ls="--")
        axis.annotate(f"ln {batch}", (0, math.log(batch)), (2, 4), textcoords="offset points", fontsize=9)
        for number, (name, pairs) in enumerate(found.items()):
            low, high = ([mean + side * spread for mean, spread in pairs] for side in (-1, 1))
            axis.plot(truths, [mean for mean, _ in pairs], color=PALETTE[number], label=name)
            axis.fill_between(truths, low, high, color=PALETTE[number], alpha=0.15, lw=0)
        axis.plot(truths, truths, color="black", lw=1.0, ls=":", label="the information")
        axis.set(xlabel="mutual information, nats", ylabel="bound, nats", ylim=(-0.3, 9))
        axis.set_title(f"Bounds from batches of {batch} pairs: mean ± a standard deviation")
        axis.legend(loc="upper left")


def _densities(rho: float, dim: int, batch: int, seed: int) -> tuple[Tensor, Tensor]:
    """log p(y_j | x_i) and log p(y_j | x_i) / p(y_j) of pairs with correlation ρ."""
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, batch, dim, generator=generator, dtype=torch.float64)
    y, spread = rho * x + math.sqrt(1 - rho**2) * noise, 1 - rho**2
    likely = -((y[None] - rho * x[:, None]) ** 2 / spread + math.log(2 * math.pi * spread)).sum(-1) / 2
    return likely, likely + (y**2 + math.log(2 * math.pi)).sum(-1)[None] / 2


def main(folder: Path) -> None:
    """Draw them all."""
    for name, draw in (("weights", draw_weights), ("gradients", draw_gradients), ("bounds", draw_bounds)):
        draw(folder / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
