"""A corpus as one picture: how long its utterances are, how much each speaker says, how often each class occurs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cpc.config import InputError
from cpc.corpus.overview import Overview, class_seconds
from cpc.files import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CLASSES = 64  # bars that can be read side by side
MOST_UNEQUAL = 30  # most over median from which hours of speakers are drawn on a logarithmic axis
BLUE, RED, GREEN = "#0072B2", "#D55E00", "#009E73"  # Okabe & Ito 2008: distinct for colour-blind readers
LONGEST = 0.999  # share of the utterances that the histogram shows; a few hours-long ones would flatten it


def draw(overview: Overview, path: Path, scheme: str | None = None) -> Path:
    """Draw durations, hours of each speaker, and the classes of a labelling scheme (default: phones, else the first).

    Raises InputError for an empty corpus, an unknown scheme, and if `path` cannot be written.
    """
    from matplotlib.figure import Figure

    if not len(overview.corpus):
        raise InputError(f"corpus={overview.corpus.path}: holds no utterances; there is nothing to draw")
    labels = scheme or ("phones" if "phones" in overview.schemes else next(iter(overview.schemes), None))
    figure = Figure(figsize=(12, 7.5 if labels else 4), layout="constrained")
    grid = figure.add_gridspec(2 if labels else 1, 2)
    _durations(figure.add_subplot(grid[0, 0]), overview)
    _speakers(figure.add_subplot(grid[0, 1]), overview)
    if labels:
        _classes(figure.add_subplot(grid[1, :]), overview, labels)
    hours = overview.whole.seconds / 3600
    figure.suptitle(_plain(f"{overview.corpus.name}: {len(overview.corpus):,} utterances, {hours:,.2f} h"))
    try:
        with atomic(path) as file:
            figure.savefig(file, dpi=110, format="png")
    except OSError as error:
        remedy = "name another place with --out"
        raise InputError(f"out={path}: the picture cannot be written ({error.strerror}); {remedy}") from error
    return path


def _plain(text: str) -> str:
    """Text in which nothing is read as mathematics."""
    return text.replace("$", r"\$")


def _durations(axis: Axes, overview: Overview) -> None:
    shown = max(float(np.quantile(overview.seconds, LONGEST)), 1e-3)
    beyond = int((overview.seconds > shown).sum())
    axis.hist(overview.seconds[overview.seconds <= shown], bins=60, range=(0, shown), color=BLUE)
    middle = float(np.median(overview.seconds))
    axis.axvline(middle, color="black", linewidth=1, linestyle="--", label=f"median {middle:.2f} s")
    rest = f" ({beyond} longer ones not shown, up to {overview.seconds.max():.1f} s)" if beyond else ""
    axis.set(title=f"durations of utterances{rest}", xlabel="seconds", ylabel="utterances", xlim=(0, shown))
    axis.title.set_fontsize("medium")
    axis.legend(fontsize="small")
    axis.grid(alpha=0.3)


def _speakers(axis: Axes, overview: Overview) -> None:
    minutes = 60 * np.array(list(overview.speaker_hours.values()))
    unit, values = ("hours", minutes / 60) if minutes.max() >= 120 else ("minutes", minutes)
    if values.max() > MOST_UNEQUAL * np.median(values):
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
    axis.stairs(values, np.arange(len(values) + 1) + 0.5, fill=True, color=RED, baseline=values.min() / 2)
    axis.set(title=f"speech of each speaker ({len(values):,} speakers)", xlabel="speakers, most first", ylabel=unit)
    axis.title.set_fontsize("medium")
    axis.set_xlim(0.5, len(values) + 0.5)
    axis.grid(alpha=0.3)


def _classes(axis: Axes, overview: Overview, scheme: str) -> None:
    seconds = class_seconds(overview.corpus, scheme)
    total = sum(seconds.values()) or 1.0
    shown = dict(list(seconds.items())[:MOST_CLASSES])
    shares = 100 * np.array(list(shown.values())) / total
    axis.bar(np.arange(len(shown)), shares, color=GREEN)
    names = [_plain(name if len(name) <= 12 else f"{name[:11]}…") for name in shown]
    size = "small" if len(shown) <= 50 else "x-small"
    slant = 90 if max(map(len, names), default=0) > 3 else 0
    axis.set_xticks(np.arange(len(shown)), names, rotation=slant, fontsize=size)
    rest = f", the {len(shown)} most frequent of {len(seconds):,}" if len(shown) < len(seconds) else ""
    covered = overview.schemes[scheme].labelled if scheme in overview.schemes else 0
    title = f"labels {scheme} by share of time{rest} ({total / 3600:.2f} h labelled, {covered:,} utterances)"
    axis.set(title=_plain(title), ylabel="% of labelled time")
    axis.title.set_fontsize("medium")
    axis.set_xlim(-0.7, len(shown) - 0.3)
    axis.grid(axis="y", alpha=0.3)
