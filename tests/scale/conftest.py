"""The corpus of chords that evaluations are tested on."""

from tests.evaluation.conftest import chords

__all__ = ["chords"]
