"""Accuracy and bound against the horizon k (van den Oord 2018, figure 3), beside what needs no learning."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from cpc import plotting as style
from cpc.data.alignment import AlignedRow
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
        right.set(title=bound if bounded else "loss (it gives no bound on information)", xlabel=step)
        right.set_ylim(min(0.0, right.get_ylim()[0]), None)
        for axis in (left, right):
            axis.legend()
            axis.xaxis.get_major_locator().set_params(integer=True)
        figure.suptitle(
            f"{first.utterances} utterances; bands: 95% intervals over utterances", fontsize=9, x=0.99, ha="right"
        )
    return path


# --- One utterance over time: its waveform, its spectrogram, its phones, and how much each frame surprises the model.


_WINDOW = 0.010  # seconds of a spectrum: short enough to show single glottal pulses and plosives' bursts
_NARROW = 0.014  # of the picture's width: a phone's name is turned where it would not fit
_RANGE = 70  # dB below the loudest that are shown


def draw_utterance(
    waveform: Float[np.ndarray, " sample"],
    sample_rate: int,
    surprise: Float64[np.ndarray, "step frame"],
    centres: Float64[np.ndarray, " frame"],
    path: Path,
    *,
    phones: AlignedRow | None = None,
    inventory: Sequence[str] = (),
    ceiling: float | None = None,
    start: float = 0.0,
    seconds: float = 4.0,
    title: str = "",
) -> Path:
    """Seconds `start` to `start + seconds`, all four over the same time.

    `surprise[k − 1, t]`: loss in nats of frame t, whose centre is `centres[t]` seconds, predicted k steps ahead.
    """
    stop = min(start + seconds, len(waveform) / sample_rate)
    part = waveform[int(start * sample_rate) : int(stop * sample_rate)]
    ratios = [1, 2.2, 0.5, 1.8]
    with style.picture(path, (12, 7.2), nrows=4, sharex=True, height_ratios=ratios) as (figure, axes):
        axes[0].plot(start + np.arange(len(part)) / sample_rate, part, color=style.colour(0), linewidth=0.5)
        axes[0].set(yticks=[], ylabel="waveform")
        _spectrogram(axes[1], part, sample_rate, start)
        _phones(axes[2], phones, inventory, start, stop)
        _surprise(axes[3], surprise, centres, ceiling)
        axes[3].set(xlim=(start, stop), xlabel="seconds")
        axes[0].set_title(style.shorten(title, 130), fontsize=10)
        for axis in axes[:3]:
            axis.grid(False)
        figure.align_ylabels(axes)
    return path


def _spectrogram(axis: Any, part: Float[np.ndarray, " sample"], sample_rate: int, start: float) -> None:
    from matplotlib.mlab import specgram

    window = int(_WINDOW * sample_rate)
    overlap = window - max(1, window // 5)
    found: Any = specgram(part, NFFT=window, pad_to=512, noverlap=overlap, Fs=sample_rate)
    power, _, times = found
    decibels = 10 * np.log10(power + 1e-12)  # silence has a logarithm, too
    shown = np.clip(decibels, decibels.max() - _RANGE, None)
    place = (start + times[0], start + times[-1], 0, sample_rate / 2000)
    axis.imshow(shown, aspect="auto", origin="lower", cmap="gray_r", extent=place, interpolation="bilinear")
    axis.set(ylabel="kHz")


def _phones(axis: Any, phones: AlignedRow | None, inventory: Sequence[str], start: float, stop: float) -> None:
    axis.set(yticks=[], ylim=(0, 1), ylabel="phones")
    axis.spines[:].set_visible(False)
    if phones is None:
        axis.text(start, 0.5, "  no labels", va="center", color=style.GREY)
        return
    for number, (onset, offset, label) in enumerate(zip(phones.onsets, phones.offsets, phones.labels, strict=True)):
        low, high = max(float(onset), start), min(float(offset), stop)
        if low >= high:
            continue
        axis.axvspan(low, high, color=("#dbe9f4", "#f4e7d3")[number % 2], linewidth=0)
        look = {"rotation": 90, "fontsize": 7} if high - low < _NARROW * (stop - start) else {"fontsize": 8}
        axis.text((low + high) / 2, 0.5, inventory[int(label)], ha="center", va="center", clip_on=True, **look)


def _surprise(
    axis: Any,
    surprise: Float64[np.ndarray, "step frame"],
    centres: Float64[np.ndarray, " frame"],
    ceiling: float | None,
) -> None:
    steps = len(surprise)
    for number, k in enumerate(sorted({1, (steps + 2) // 3, steps})):
        axis.plot(centres, surprise[k - 1], color=style.colour(number), label=f"k = {k}")
    if ceiling is not None:
        axis.axhline(ceiling, color=style.GREY, linestyle="--", linewidth=0.9, label=f"chance, {ceiling:.2f}")
    axis.set_ylim(0, None)
    axis.set_ylabel("loss (nats)")
    axis.legend(loc="lower right", bbox_to_anchor=(1, 0.97), ncols=4)
