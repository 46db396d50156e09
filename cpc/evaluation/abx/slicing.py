"""Which frames an item has: those whose centre in time lies within it.

With frame i centred at (i + ½) Δt these are ⌈onset/Δt − ½⌉ … ⌊offset/Δt − ½⌋, both included (ABXpy; fastabx, "Slicing
features"). Libri-Light's code leaves the last of them out, which makes the items shorter and the numbers better
(HuBERT, dev-clean: 3.06% instead of 3.38%): `librilight` is that, for comparison with what was published with it.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

Slicing = Literal["centre", "librilight"]
TOLERANCE = 1e-7  # seconds: a centre that falls on an edge is inside, whatever way both were rounded


def slice_frames(
    onsets: Float64[np.ndarray, " item"],
    offsets: Float64[np.ndarray, " item"],
    centres: Float64[np.ndarray, " frames_and_next"],
    slicing: Slicing = "centre",
) -> tuple[Int64[np.ndarray, " item"], Int64[np.ndarray, " item"]]:
    """First frame, and number of frames, of each item of one utterance; an item may have none.

    `centres` are the times of the utterance's frames and of the one that would follow, in seconds: Libri-Light's
    code drops the last frame of an item even where the audio goes no further, but not where the item goes on.
    """
    present = len(centres) - 1
    start = np.searchsorted(centres, onsets - TOLERANCE, side="left")
    stop = np.searchsorted(centres, offsets + TOLERANCE, side="right")
    if slicing == "librilight":
        stop -= 1
    start, stop = np.minimum(start, present), np.minimum(stop, present)
    return start.astype(np.int64), np.maximum(stop - start, 0).astype(np.int64)
