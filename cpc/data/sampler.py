"""Which windows are seen at which step, and how they reach the device.

A window lies inside one utterance; utterances are drawn in proportion to their duration. The batch of a step is a
pure function of (seed, step): processes take their parts of the same batch, and a resumed run sees what an
uninterrupted one would have seen. Windows are gathered ahead of the step and travel from pinned memory, or they are
cut on the device from utterances that it holds; int16 becomes float there.
"""

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Int16
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from cpc.config import STRICT, InputError
from cpc.data.corpus import Corpus
from cpc.data.splits import has_speaker
from cpc.seeding import numpy_generator

AHEAD = 3  # batches gathered before they are needed


@dataclass(frozen=True, config=STRICT)
class WindowConfig:
    """How much is seen at a step.

    window_size: samples of a window. batch_size: windows of a step, those of all processes together.
    same_speaker_batches: the windows of a batch are all by one speaker.

    batch_size: windows of a step, of all processes together.
    """

    window_size: Annotated[int, Field(ge=1)] = 20480
    batch_size: Annotated[int, Field(ge=1)] = 8
    same_speaker_batches: bool = False


class WindowSampler:
    """The windows of some utterances of a corpus, by step; only those at the places `part` of a batch, if given.

    With `by_speaker`, or batches of one speaker, utterances without a known speaker are skipped (`unknown` of them).
    """

    def __init__(
        self,
        corpus: Corpus,
        rows: Int[np.ndarray, "row"],
        config: WindowConfig,
        seed: int,
        part: Int[np.ndarray, "window"] | None = None,
        by_speaker: bool = False,
    ) -> None:
        rows, self.unknown = np.asarray(rows), 0
        if by_speaker or config.same_speaker_batches:
            known = has_speaker(corpus, rows)
            rows, self.unknown = rows[known], int(np.count_nonzero(~known))
        lengths = corpus.samples[rows]
        fits = lengths >= config.window_size
        self.corpus, self.config, self.seed = corpus, config, seed
        self._part = np.arange(config.batch_size) if part is None else part
        self._held: Tensor | None = None  # int16, one utterance after the other
        self.too_short = int(np.count_nonzero(~fits))
        self.rows, self.lengths = rows[fits], lengths[fits]
        if self.unknown and not len(rows):
            raise InputError(
                f"corpus={corpus.path}: none of the {self.unknown} utterances has a known speaker, which batches or "
                "positives by speaker need; pack it with speakers, or drop data.same_speaker_batches and "
                "loss.positives=speaker"
            )
        if not len(self.rows):
            raise InputError(
                f"data.window_size={config.window_size}: none of the {len(rows)} utterances is that long (the longest "
                f"has {int(lengths.max(initial=0))} samples); use shorter windows"
            )
        if config.same_speaker_batches:
            order = np.argsort(self._speaker_of(self.rows), kind="stable")
            self.rows, self.lengths = self.rows[order], self.lengths[order]
        self._ends = np.cumsum(self.lengths)
        self._bounds = self._speaker_bounds() if config.same_speaker_batches else self._ends[[-1]]

    def draw(self, step: int) -> tuple[Int[np.ndarray, "window"], Int[np.ndarray, "window"]]:
        """Corpus rows and first samples of the windows of a step."""
        place, starts = self._places(step)
        return self.rows[place], starts

    def labels(self, step: int, same: Literal["utterance", "speaker"]) -> Int[np.ndarray, "window"]:
        """A number for each window of a step, the same for windows of one utterance, or of one speaker."""
        rows, _ = self.draw(step)
        return np.asarray(rows if same == "utterance" else self._speaker_of(rows), dtype=np.int64)

    def read(self, step: int, pinned: bool = False) -> Int16[Tensor, "window sample"]:
        """The windows of a step as they are stored."""
        rows, starts = self.draw(step)
        batch = torch.empty(len(rows), self.config.window_size, dtype=torch.int16, pin_memory=pinned)
        self.corpus.gather(rows, starts, self.config.window_size, batch.numpy())
        return batch

    @property
    def bytes(self) -> int:
        """The size of all utterances that windows are drawn from."""
        return int(self._ends[-1]) * 2

    def hold(self, device: torch.device) -> None:
        """Copy every utterance to `device`; from now on windows are cut there and only their places travel."""
        held = torch.empty(int(self._ends[-1]), dtype=torch.int16, device=device)
        for row, end, length in zip(self.rows, self._ends, self.lengths, strict=True):
            held[end - length : end] = torch.from_numpy(self.corpus.waveform(int(row)).copy())
        self._held = held

    def batches(
        self, start: int, stop: int, device: torch.device
    ) -> Iterator[tuple[int, Float[Tensor, "window sample"]]]:
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
                    put((step, self._prepare(step, pinned=device.type == "cuda")))
            except BaseException as error:  # handed to the consumer, which raises it
                put(error)

        thread = threading.Thread(target=gather, name="windows", daemon=True)
        thread.start()
        try:
            for _ in range(start, stop):
                item = ahead.get()
                if isinstance(item, BaseException):
                    raise item
                yield item[0], to_float(self._cut(item[1].to(device, non_blocking=True)))
        finally:
            over.set()
            thread.join()

    def _prepare(self, step: int, pinned: bool) -> Int[Tensor, "window *sample"]:
        """What travels to the device: the windows, or where they begin in what it holds."""
        if self._held is None:
            return self.read(step, pinned)
        place, starts = self._places(step)
        begins = torch.from_numpy(self._ends[place] - self.lengths[place] + starts)
        return begins.pin_memory() if pinned else begins

    def _cut(self, moved: Int[Tensor, "window *sample"]) -> Int16[Tensor, "window sample"]:
        return moved if self._held is None else self._held.unfold(0, self.config.window_size, 1)[moved]

    def _places(self, step: int) -> tuple[Int[np.ndarray, "window"], Int[np.ndarray, "window"]]:
        """Places in `rows` and first samples of this part's windows; the whole batch is drawn, whoever asks."""
        rng = numpy_generator(self.seed, "windows", step)
        low, high = self._span(rng)
        place = np.searchsorted(self._ends, rng.integers(low, high, self.config.batch_size), side="right")
        starts = rng.integers(0, self.lengths[place] - self.config.window_size + 1)
        return place[self._part], starts[self._part]

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
