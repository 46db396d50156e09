"""Draw the pictures of the guides: python docs/pictures.py [FOLDER]. Losses are computed by `cpc.losses`."""

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


# --- CPC in five pictures (concepts/cpc.md)

HOP, FIELD = 160, 465  # samples from frame to frame, and those that one sees
# `make demo` (README.md): % correct with the ends of its 95% interval.
DEMO = {
    "MFCC": ((57.4, 56.1, 58.9), (43.6, 41.8, 45.4), (80.4, 76.3, 84.6)),
    "untrained c": ((29.0, 28.3, 29.7), (11.6, 10.0, 13.4), (25.8, 21.4, 30.6)),
    "CPC c": ((57.9, 57.1, 58.8), (47.8, 44.6, 50.9), (86.1, 82.2, 89.6)),
}
TASKS = ("phones,\none frame", "speakers,\none frame", "speakers,\nan utterance")


def _box(axis: Any, x: float, y: float, text: str, color: str, width: float = 0.8, height: float = 0.7) -> None:
    from matplotlib.patches import FancyBboxPatch

    style = f"round,pad=0,rounding_size={0.15 * height}"
    axis.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, boxstyle=style, fc=color, ec="none"))
    axis.text(x, y, text, ha="center", va="center", color="white", fontsize=10)


def _arrow(axis: Any, begin: tuple[float, float], end: tuple[float, float], color: str = "#666666") -> None:
    axis.annotate("", end, begin, arrowprops={"arrowstyle": "->", "color": color, "lw": 1.2})


def _voice(samples: int) -> Tensor:
    """Something that looks like speech: a buzz with three resonances, louder and softer."""
    time = torch.arange(samples) / 16000
    buzz = sum(torch.cos(2 * math.pi * 120 * n * time) * w for n, w in ((1, 0.6), (4, 1.0), (9, 0.7), (19, 0.3)))
    return Tensor(buzz) * torch.sin(math.pi * time / time[-1]).clamp_min(0) ** 0.5


def draw_frames(path: Path) -> None:
    """Where frames lie in a waveform, and what one sees."""
    frames = 8
    wave = _voice(HOP * (frames - 1) + FIELD)
    ms = torch.arange(len(wave)) / 16
    with picture(path, (9, 3.6)) as (_, axis):
        axis.plot(ms.tolist(), (wave / wave.abs().max()).tolist(), color="#999999", lw=0.8)
        for t in range(frames):
            begin, centre = HOP * t / 16, (HOP * t + FIELD / 2) / 16
            y = 2.0 + 0.42 * (t % 3)
            axis.plot([begin, begin + FIELD / 16], [y, y], color=PALETTE[t % 3], lw=3, solid_capstyle="butt")
            axis.plot([centre, centre], [y, 3.55], color=PALETTE[t % 3], lw=0.8, ls=":")
            _box(axis, centre, 3.9, f"$z_{{{t}}}$", PALETTE[t % 3], 6.5)
        axis.annotate("465 samples, 29 ms", (FIELD / 16, 2.0), (36, 1.35), fontsize=9, va="center")
        first, second = ((HOP * t + FIELD / 2) / 16 for t in (5, 6))
        axis.annotate("", (second, 4.5), (first, 4.5), arrowprops={"arrowstyle": "<->", "lw": 1})
        axis.text((first + second) / 2, 4.75, "160 samples, 10 ms", ha="center", fontsize=9)
        axis.set(xlabel="time, ms", ylim=(-1.2, 5.2), yticks=[])
        axis.grid(visible=False)
        axis.set_title("A frame z sees 465 samples, and there is one every 160")


def draw_heads(path: Path) -> None:
    """z, c, and what the heads predict."""
    with picture(path, (9, 3.6)) as (_, axis):
        for t in range(9):
            _box(axis, t, 0, f"$z_{{{t}}}$", PALETTE[0] if t < 5 else PALETTE[2])
            if t < 5:
                _box(axis, t, 1.5, f"$c_{{{t}}}$", PALETTE[1])
                _arrow(axis, (t, 0.4), (t, 1.1))
            if t < 4:
                _arrow(axis, (t + 0.42, 1.5), (t + 0.58, 1.5))
        for k in range(1, 5):
            rise = -0.1 * k
            curve = {"arrowstyle": "->", "color": PALETTE[2], "lw": 1.2, "connectionstyle": f"arc3,rad={rise}"}
            axis.annotate("", (4 + k, 0.4), (4.42, 1.6), arrowprops=curve)
            axis.text(4.15 + k, 0.62, f"$W_{{{k}}}$", color=PALETTE[2], fontsize=10)
        axis.text(-0.7, 0, "encoder", ha="right", va="center", fontsize=9)
        axis.text(-0.7, 1.5, "GRU", ha="right", va="center", fontsize=9)
        axis.axvline(4.5, color="#666666", lw=0.8, ls="--")
        axis.text(4.44, 2.3, "heard", ha="right", fontsize=9)
        axis.text(4.56, 2.3, "still to come", fontsize=9)
        axis.set(xlim=(-1.8, 8.8), ylim=(-0.6, 2.6))
        axis.axis("off")
        axis.set_title("From what it has heard, each head predicts one frame that is to come")


def draw_candidates(path: Path) -> None:
    """The positive of one anchor among negatives of its own window and of another."""
    with picture(path, (9, 2.9)) as (_, axis):
        for row, name in enumerate(("another window", "own window")):
            axis.text(-0.8, row, name, ha="right", va="center", fontsize=9)
            for t in range(14):
                positive = row == 1 and t == 8
                used = row == 1 or t in (1, 6, 11)
                color = PALETTE[2] if positive else PALETTE[1] if used else "#cccccc"
                _box(axis, t, row, "+" if positive else "−" if used else "", color, 0.8, 0.6)
        axis.annotate("$W_3 c_5$ asks", (8, 1.35), (5, 2.05), arrowprops={"arrowstyle": "->", "lw": 1.2}, ha="center")
        axis.set(xlim=(-3.2, 13.6), ylim=(-0.5, 2.5))
        axis.axis("off")
        axis.set_title("Which of these frames is the one that comes? One is right (+), the others are negatives (−)")


def draw_loss(path: Path) -> None:
    """Shares of a softmax, before and after learning, and the loss of the right one."""
    negatives = torch.tensor([0.1, -0.3, 0.5, 0.2, -0.6, 0.0, 0.3])
    with picture(path, (9, 3.2), ncols=2, sharey=True) as (_, axes):
        for axis, right, width, name in ((axes[0], 0.1, 0.0, "at first"), (axes[1], 2.6, 1.0, "after learning")):
            scores = torch.cat([torch.tensor([right]), width * negatives + (1 - width) * 0.1])
            shares, loss = torch.softmax(scores, 0), float(InfoNCE()(scores[:1], scores[None, 1:])[0])
            colors = [PALETTE[2]] + [PALETTE[1]] * len(negatives)
            axis.bar(range(len(shares)), shares.tolist(), color=colors)
            axis.set_xticks(range(len(shares)), ["+"] + ["−"] * len(negatives))
            axis.set(ylim=(0, 1), xlabel="candidates")
            chance = f" = ln(1 + {len(negatives)})" if width == 0 else f" = −ln {float(shares[0]):.2f}"
            axis.set_title(f"{name}: loss {loss:.2f}{chance}")
        axes[0].set_ylabel("share by softmax")


def draw_results(path: Path) -> None:
    """The table of `make demo` as bars."""
    with picture(path, (9, 3.6)) as (_, axis):
        for number, (name, found) in enumerate(DEMO.items()):
            places = [task + 0.27 * (number - 1) for task in range(len(TASKS))]
            middle = [each[0] for each in found]
            ends = [[each[0] - each[1] for each in found], [each[2] - each[0] for each in found]]
            color = (PALETTE[7], "#cccccc", PALETTE[0])[number]
            axis.bar(places, middle, 0.25, yerr=ends, color=color, label=name, capsize=3, error_kw={"lw": 1})
            for place, value, above in zip(places, middle, ends[1], strict=True):
                axis.text(place, value + above + 1.5, f"{value:.0f}", ha="center", fontsize=9)
        axis.set_xticks(range(len(TASKS)), TASKS)
        axis.set(ylabel="% correct", ylim=(0, 105))
        axis.grid(visible=False, axis="x")
        axis.legend(loc="upper left")
        axis.set_title("Linear classifiers on frozen features, `make demo`")


# recipes/speech/wide-512.yaml, c of its checkpoints at these steps. To save time, probes on every fourth utterance of
# phone_train and every second of the other three splits, and on 60,000 frames: with all of them the last step has 51.0
# and 78.2, MFCC 41.6 and 35.4.
TRAINING_STEPS = (500, 1000, 2000, 4000, 6000)
TRAINING = {"phones": (32.8, 38.2, 43.0, 46.8, 48.1), "speakers by frame": (28.8, 48.5, 64.4, 74.4, 75.7)}
TRAINING_MFCC = {"phones": 40.6, "speakers by frame": 34.6}


def draw_training(path: Path) -> None:
    """What linear probes read off c while it learns, with MFCC as a line."""
    with picture(path, (8, 4.2)) as (_, axis):
        for number, (task, values) in enumerate(TRAINING.items()):
            axis.plot(TRAINING_STEPS, values, color=PALETTE[number], marker="o", label=f"CPC c, {task}")
            axis.axhline(TRAINING_MFCC[task], color=PALETTE[number], lw=1, ls="--", label=f"MFCC, {task}")
        axis.set(xlabel="step (32 windows of 1.28 s each)", ylabel="% correct", ylim=(0, 80), xlim=(0, None))
        axis.legend(loc="lower right")
        axis.set_title("Linear classifiers on frozen features while c learns, eight hours of real speech")


DRAW = {
    "weights": draw_weights,
    "gradients": draw_gradients,
    "bounds": draw_bounds,
    "cpc-frames": draw_frames,
    "cpc-heads": draw_heads,
    "cpc-candidates": draw_candidates,
    "cpc-loss": draw_loss,
    "cpc-results": draw_results,
    "cpc-training": draw_training,
}


def main(folder: Path) -> None:
    """Draw them all."""
    for name, draw in DRAW.items():
        draw(folder / f"{name}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
