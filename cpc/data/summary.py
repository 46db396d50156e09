"""What is in a packed corpus: numbers for a table and a picture."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int
from numpy import ndarray

from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.data.splits import Extent, extents, read_splits
from cpc.io import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import Group
    from rich.table import Table

REASONS = 3  # most frequent reasons for which files were skipped that are named
UNKNOWN = "unknown"


class Scheme(NamedTuple):
    """One labelling scheme: how many of the corpus's utterances it labels, with what, from where."""

    labelled: int
    classes: int
    source: str


@dataclass(frozen=True)
class Overview:
    """The numbers of a corpus, each computed when it is asked for; none needs the audio."""

    corpus: Corpus

    @cached_property
    def seconds(self) -> Float64[ndarray, " utterance"]:
        """Of each utterance."""
        seconds: ndarray = self.corpus.samples / self.corpus.sample_rate
        return seconds

    @cached_property
    def speaker_hours(self) -> dict[str, float]:
        """Hours of each speaker, most first; speakers without a name count as one, `unknown`."""
        names, speaker = self.corpus.groups("speaker")
        hours = np.bincount(speaker, self.seconds, len(names)) / 3600
        order = np.argsort(-hours, kind="stable").tolist()
        return {names[place] or UNKNOWN: float(hours[place]) for place in order}

    @cached_property
    def sexes(self) -> dict[str, int]:
        """Speakers of each sex, most first."""
        (_, speaker), (names, sex) = self.corpus.groups("speaker"), self.corpus.groups("sex")
        pairs = np.unique(np.stack([sex, speaker]), axis=1)[0]
        return {names[place] or UNKNOWN: count for place, count in Counter(pairs.tolist()).most_common()}

    @cached_property
    def whole(self) -> Extent:
        """All of the corpus."""
        return extents(self.corpus, {"": np.arange(len(self.corpus))})[""]

    @cached_property
    def subsets(self) -> dict[str, Extent]:
        """What each subset holds."""
        names, subset = self.corpus.groups("subset")
        return extents(self.corpus, {name: np.flatnonzero(subset == place) for place, name in enumerate(names)})

    @cached_property
    def _splits(self) -> tuple[dict[str, Int[ndarray, " _"]], dict[str, str]]:
        return read_splits(self.corpus)

    @cached_property
    def splits(self) -> dict[str, Extent]:
        """What each split holds."""
        return extents(self.corpus, self._splits[0])

    @cached_property
    def schemes(self) -> dict[str, Scheme]:
        """The labelling schemes that can be read."""
        return {name: _scheme(self.corpus, name) for name in sorted(self._schemes[0])}

    @cached_property
    def _schemes(self) -> tuple[list[str], dict[str, str]]:
        readable, broken = [], {}
        for scheme in self.corpus.schemes():
            try:
                self.corpus.labels(scheme)
                readable.append(scheme)
            except (InputError, ValueError, KeyError, OSError) as error:
                broken[scheme] = f"labels={scheme}: cannot be read: {' '.join(str(error).split())}"
        return readable, broken

    @property
    def broken(self) -> list[str]:
        """What is wrong with the splits and labels that cannot be read."""
        return [*self._splits[1].values(), *self._schemes[1].values()]

    @cached_property
    def skipped(self) -> dict[str, int]:
        """Files that gave no usable audio, by reason, most frequent first."""
        reasons: Counter[str] = Counter()
        for path in (folder / "skipped.tsv" for folder in self.corpus.folders):
            if path.is_file():
                with path.open(encoding="utf-8", newline="") as file:
                    rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
                    reasons.update(row[1] for row in list(rows)[1:] if len(row) > 1)
        return dict(reasons.most_common())


def _scheme(corpus: Corpus, name: str) -> Scheme:
    import pyarrow.compute as pc

    alignment = corpus.labels(name)
    known: Any = pc.is_in(alignment.ids, value_set=corpus.column("id"))
    return Scheme(int(known.to_numpy(zero_copy_only=False).sum()), len(alignment.inventory), alignment.source)


def class_seconds(corpus: Corpus, scheme: str) -> dict[str, float]:
    """Seconds of each class of a labelling scheme, most first. Raises InputError if there is no such scheme."""
    alignment = corpus.labels(scheme)
    totals = np.zeros(len(alignment.inventory))
    for group in alignment.groups():
        totals += np.bincount(group.labels, group.offsets - group.onsets, len(totals))
    order = np.argsort(-totals, kind="stable").tolist()
    return {alignment.inventory[place]: float(totals[place]) for place in order}


def render(overview: Overview) -> Group:
    """The numbers as tables for a terminal."""
    from rich.console import Group

    parts: list[Any] = [_facts(overview)]
    if set(overview.subsets) != {""}:
        parts.append(_extents("subset", {name or UNKNOWN: extent for name, extent in overview.subsets.items()}))
    if overview.splits:
        parts.append(_extents("split", overview.splits))
    if overview.schemes:
        parts.append(_labels(overview))
    return Group(*parts)


def _facts(overview: Overview) -> Table:
    from rich.markup import escape

    corpus, whole, seconds = overview.corpus, overview.whole, overview.seconds
    low, middle, high = (f"{value:.2f}" for value in np.quantile(seconds if len(seconds) else [0.0], (0, 0.5, 1)))
    sexes = ", ".join(
        f"{count} {sex}" if sex != UNKNOWN else f"{count} of unknown sex" for sex, count in overview.sexes.items()
    )
    table = _table(("corpus", escape(str(corpus.path))))
    table.columns[0].no_wrap = True
    rows = {
        "utterances": f"{whole.utterances:,}",
        "hours": f"{whole.seconds / 3600:.2f}",
        "speakers": f"{whole.speakers:,} ({sexes})",
        "chapters": f"{whole.chapters:,}",
        "duration": f"{low} s shortest, {middle} s median, {high} s longest",
        "sample rate": f"{corpus.sample_rate} Hz",
        "transcripts": f"{_transcripts(corpus):,} utterances",
        "skipped files": _skipped(overview),
        "digest": corpus.digest,
    }
    for name, value in rows.items():
        table.add_row(name, escape(value))
    return table


def _transcripts(corpus: Corpus) -> int:
    import pyarrow.compute as pc

    lengths: Any = pc.binary_length(corpus.column("text"))
    return int(np.count_nonzero(lengths.to_numpy(zero_copy_only=False)))


def _skipped(overview: Overview) -> str:
    infos = (json.loads((folder / "corpus.json").read_text(encoding="utf-8")) for folder in overview.corpus.folders)
    count = sum(info.get("skipped", 0) for info in infos)
    reasons = list(overview.skipped.items())[:REASONS]
    why = "; ".join(f"{count} × {reason}" for reason, count in reasons)
    return f"{count}" + (f" ({why}{'; …' if len(overview.skipped) > REASONS else ''})" if why else "")


def _extents(kind: str, held: dict[str, Extent]) -> Table:
    from rich.markup import escape

    table = _table((kind,), ("utterances", "hours", "speakers", "chapters"))
    for name, extent in held.items():
        hours = f"{extent.seconds / 3600:.2f}"
        table.add_row(escape(name), f"{extent.utterances:,}", hours, f"{extent.speakers:,}", f"{extent.chapters:,}")
    return table


def _labels(overview: Overview) -> Table:
    from rich.markup import escape

    table = _table(("labels",), ("utterances", "coverage", "classes"))
    table.add_column("source")
    for name, scheme in overview.schemes.items():
        covered = f"{scheme.labelled / max(len(overview.corpus), 1):.1%}"
        table.add_row(name, f"{scheme.labelled:,}", covered, f"{scheme.classes:,}", escape(scheme.source))
    return table


def _table(left: Sequence[str], right: Sequence[str] = ()) -> Table:
    from rich.table import Table

    table = Table()
    for column in left:
        table.add_column(column, overflow="fold")
    for column in right:
        table.add_column(column, justify="right")
    return table


# --- A corpus as one picture: how long its utterances are, how much each speaker says, how often each class occurs.


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
