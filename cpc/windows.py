"""Which windows are seen at which step, and how they reach the device.

A window lies inside one utterance; utterances are drawn in proportion to their duration. The batch of a step is a
pure function of (seed, step): ranks take their slices of the same global batch, and a resumed run sees what an
uninterrupted one would have seen.
"""

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Float, Int, Int16
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from cpc.config import STRICT, InputError
from cpc.corpus import Corpus
from cpc.seeding import numpy_generator

AHEAD = 3  # batches gathered before they are needed


@dataclass(frozen=True, config=STRICT)
class WindowsConfig:
    """`samples` a window, `batch` windows a step; `one_speaker` makes each batch of a single speaker."""

    samples: Annotated[int, Field(ge=1)] = 20480
    batch: Annotated[int, Field(ge=1)] = 8
    one_speaker: bool = False


class Windows:
    """The windows of some utterances of a corpus, by step."""

    def __init__(self, corpus: Corpus, rows: Int[np.ndarray, "row"], config: WindowsConfig, seed: int) -> None:
        lengths = corpus.samples[rows]
        fits = lengths >= config.samples
        self.corpus, self.config, self.seed = corpus, config, seed
        self.too_short = int(np.count_nonzero(~fits))
        self.rows, self.lengths = np.asarray(rows)[fits], lengths[fits]
        if not len(self.rows):
            raise InputError(
                f"windows.samples={config.samples}: none of the {len(rows)} utterances is that long (the longest has "
                f"{int(lengths.max(initial=0))} samples); use shorter windows"
            )
        if config.one_speaker:
            order = np.argsort(self._speaker_of(self.rows), kind="stable")
            self.rows, self.lengths = self.rows[order], self.lengths[order]
        self._ends = np.cumsum(self.lengths)
        self._bounds = self._speaker_bounds() if config.one_speaker else self._ends[[-1]]

    def draw(self, step: int) -> tuple[Int[np.ndarray, "batch"], Int[np.ndarray, "batch"]]:
        """Corpus rows and first samples of the windows of a step."""
        rng = numpy_generator(self.seed, "windows", step)
        low, high = self._span(rng)
        place = np.searchsorted(self._ends, rng.integers(low, high, self.config.batch), side="right")
        starts = rng.integers(0, self.lengths[place] - self.config.samples + 1)
        return self.rows[place], starts

    def read(self, step: int, pinned: bool = False) -> Int16[Tensor, "batch sample"]:
        """The batch of a step as it is stored."""
        rows, starts = self.draw(step)
        batch = torch.empty(self.config.batch, self.config.samples, dtype=torch.int16, pin_memory=pinned)
        self.corpus.gather(rows, starts, self.config.samples, batch.numpy())
        return batch

    def batches(
        self, start: int, stop: int, device: torch.device
    ) -> Iterator[tuple[int, Float[Tensor, "batch sample"]]]:
        """(step, waveform on `device`) for start ≤ step < stop; a thread gathers ahead of the steps."""
        ahead: queue.Queue[tuple[int, Tensor] | BaseException] = queue.Queue(AHEAD)
        over = threading.Event()

        def put(item: tuple[int, Tensor] | BaseException) -> None:
            while not over.is_set():
                with suppress(queue.Full):
                    ahead.put(item, timeout=0.1)
                    return

        def gather() -> None:
            try:
                for step in range(start, stop):
                    if over.is_set():
                        return
                    put((step, self.read(step, pinned=device.type == "cuda")))
            except BaseException as error:  # handed to the consumer, which raises it
                put(error)

        thread = threading.Thread(target=gather, name="windows", daemon=True)
        thread.start()
        try:
            for _ in range(start, stop):
                item = ahead.get()
                if isinstance(item, BaseException):
                    raise item
                yield item[0], to_float(item[1].to(device, non_blocking=True))
        finally:
            over.set()
            thread.join()

    def _span(self, rng: np.random.Generator) -> tuple[int, int]:
        """The samples to draw from, on the cumulative axis: one speaker's, drawn by duration, or everybody's."""
        speaker = int(np.searchsorted(self._bounds, rng.integers(self._bounds[-1]), side="right"))
        return int(self._bounds[speaker - 1]) if speaker else 0, int(self._bounds[speaker])

    def _speaker_bounds(self) -> Int[np.ndarray, "speaker"]:
        """Where each speaker ends on the cumulative axis of rows sorted by speaker."""
        speaker = self._speaker_of(self.rows)
        last = np.flatnonzero(np.append(speaker[1:] != speaker[:-1], True))
        return self._ends[last]

    def _speaker_of(self, rows: Int[np.ndarray, "row"]) -> Int[np.ndarray, "row"]:
        """Each row's speaker as an integer."""
        speakers = self.corpus.groups("speaker")[1]
        return np.asarray(speakers[rows])


def to_float(samples: Int16[Tensor, "batch sample"]) -> Float[Tensor, "batch sample"]:
    """int16 → float32 in [−1, 1)."""
    return samples.to(torch.float32) / 32768
