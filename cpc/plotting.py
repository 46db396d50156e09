"""How every picture looks: one quiet style, colours that colour-blind readers can tell apart, files written whole."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cpc.io import room_for

# Okabe & Ito 2008, without yellow, which is too light for lines: distinct under every common colour blindness.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY = "#666666"
DPI = 120  # of a PNG; text is legible when a pixel is a pixel
_STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "figure.facecolor": "white",
    "svg.hashsalt": "cpc",  # the same data give the same bytes
    "svg.fonttype": "path",
}


def colour(number: int) -> str:
    """The colour of the n-th thing; from the ninth on they repeat, and the marker tells them apart."""
    return PALETTE[number % len(PALETTE)]


def marker(number: int) -> str:
    """The marker of the n-th thing: it changes with every round of the palette, for 64 combinations."""
    return MARKERS[number // len(PALETTE) % len(MARKERS)]


@contextmanager
def picture(path: Path, size: tuple[float | int, float | int], **grid: Any) -> Iterator[Any]:
    """A figure of `size` inches and its axes, laid out as `grid` says (rows, columns, ratios: see Figure.subplots).

    Gives (figure, axes); on success the picture is written to `path`, as PNG or SVG by its name. Nothing touches
    pyplot, whose figures live until they are closed.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)  # type: ignore[call-arg, union-attr]
        yield figure, figure.subplots(**grid)
        _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".partial{path.suffix}")
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with room_for(path):
        try:
            figure.savefig(partial, dpi=DPI, metadata=metadata)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def blank(axis: Any, reason: str) -> None:
    """Leave an axis empty but for its title and why there is nothing to see."""
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.set(xticks=[], yticks=[], xlabel="", ylabel="")
    axis.text(0.5, 0.5, reason, ha="center", color=GREY, transform=axis.transAxes)


def shorten(text: str, most: int = 40) -> str:
    """A name for a legend: its middle is left out where it is long, and nothing in it is read as mathematics."""
    text = text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-(most // 2) :]}"
    return text.replace("$", r"\$")
