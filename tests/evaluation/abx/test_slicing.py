"""Items have the frames whose centres lie within them, exactly, for any hop and any first centre."""

from decimal import Decimal
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpc.evaluation.abx.items import slice_frames
from tests.evaluation.abx.reference import frames_of


def sliced(onset: float, offset: float, centres: np.ndarray, slicing: str = "centre") -> list[int]:
    (start,), (count,) = slice_frames(np.array([onset]), np.array([offset]), centres, slicing)
    return list(range(start, start + count))


# Times as .item files have them: a phone edge every 2.5 ms falls exactly on centres of 5 and 10 ms hops.
@settings(max_examples=200)
@given(
    onset=st.integers(0, 700),
    length=st.integers(1, 300),
    hop=st.sampled_from(["0.01", "0.02", "0.005", "0.0125", "0.016"]),
    first=st.sampled_from([None, "0", "0.0049", "0.0125"]),
    present=st.integers(1, 90),
    slicing=st.sampled_from(["centre", "librilight"]),
)
def test_frames_are_those_of_exact_arithmetic(
    onset: int, length: int, hop: str, first: str | None, present: int, slicing: str
) -> None:
    start, stop = (str(Decimal(n) * Decimal("0.0025")) for n in (onset, onset + length))
    centre = first if first is not None else str(Decimal(hop) / 2)
    centres = float(centre) + float(hop) * np.arange(present + 1)
    expected = frames_of(start, stop, hop, centre, present, slicing == "librilight")
    assert sliced(float(start), float(stop), centres, slicing) == expected


@pytest.mark.parametrize(("onset", "offset", "dt"), [(0.2925, 0.4725, 0.01), (0.2925, 0.4725, 0.02), (0.1, 0.2, 0.01)])
def test_the_formula_of_abxpy(onset: float, offset: float, dt: float) -> None:
    first, last = ceil(onset / dt - 0.5), floor(offset / dt - 0.5)
    centres = (np.arange(200) + 0.5) * dt
    assert sliced(onset, offset, centres) == list(range(first, last + 1))
    assert sliced(onset, offset, centres, "librilight") == list(range(first, last))


def test_frames_of_cpc_belong_to_the_phone_that_their_samples_are_in() -> None:
    centres = (160 * np.arange(101) + 79.5) / 16000
    # Samples 1600 to 3200: centres 79.5 + 160 t from 1679.5 (t = 10) to 3119.5 (t = 19).
    assert sliced(0.1, 0.2, centres) == list(range(10, 20))
    assert sliced(0.1, 0.2, centres, "librilight") == list(range(10, 19))


def test_where_the_features_end_an_item_ends() -> None:
    centres = (np.arange(11) + 0.5) * 0.01  # ten frames, and the one that would follow
    assert sliced(0.05, 0.5, centres) == [5, 6, 7, 8, 9]
    assert sliced(0.05, 0.5, centres, "librilight") == [5, 6, 7, 8, 9]  # what is dropped lies beyond
    assert sliced(0.05, 0.1, centres, "librilight") == [5, 6, 7, 8]
    assert sliced(0.2, 0.3, centres) == sliced(0.051, 0.054, centres) == []
