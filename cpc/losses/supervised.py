"""Supervised contrast of frames: those with the same label belong together (Khosla et al. 2020, on phones).

No method without labels beats it on its own labels, which makes it the other end of the scale from random weights.
"""

from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from cpc.config import STRICT
from cpc.data.corpus import Corpus
from cpc.data.sampler import WindowSampler
from cpc.device import upcast
from cpc.distributed import gather_all
from cpc.losses.contrast import contrast_labels
from cpc.losses.cpc import Losses, of_pairs
from cpc.losses.objectives import InfoNCE, Mining, Objective
from cpc.losses.scores import Cosine, Score, check_uncentred
from cpc.losses.sharding import FULL_BATCH, BatchShard
from cpc.models.cpc import CPC
from cpc.models.pooling import ProjectionConfig, build_projection


@dataclass(frozen=True, config=STRICT)
class SupervisedConfig:
    """`each` frames of every window, drawn anew each step, are contrasted by their `labels` (a name in the corpus).

    labels: name of the labels in the corpus.
    each: frames drawn of every window.
    score: how alike two frames are.
    objective: the loss of a positive and its negatives.
    mining: which negatives count.
    margin: of semi-hard mining: how far below the positive a negative may score.
    """

    labels: str = "phones"
    each: Annotated[int, Field(ge=1)] = 16
    projection: ProjectionConfig = Field(default_factory=ProjectionConfig)
    score: Score = Field(default_factory=Cosine)
    objective: Objective = Field(default_factory=InfoNCE)
    mining: Mining = "all"
    margin: Annotated[float, Field(gt=0)] = 0.2
    kind: Literal["supervised"] = "supervised"

    @model_validator(mode="after")
    def _checked(self) -> "SupervisedConfig":
        check_uncentred(self.score)
        return self


class FrameLabels:
    """The label that holds at the centre of each frame of a window."""

    def __init__(self, corpus: Corpus, labels: str) -> None:
        self.corpus, self.alignment = corpus, corpus.labels(labels)

    def of(self, windows: WindowSampler, step: int, model: CPC) -> Int64[np.ndarray, "window frame"]:
        """Those of the windows of a step; −1 where there is none."""
        frames, rate = model.frames(windows.config.window_size), model.sample_rate
        rows, starts = windows.draw(step)
        centres, found = model.frame_centres(frames), np.full((len(rows), frames), -1, np.int64)
        for own, row, start in zip(found, rows.tolist(), starts.tolist(), strict=True):
            if (id := self.corpus.ids[row]) in self.alignment:
                own[:] = self.alignment.frames(id, start / rate + centres)
        return found


class SupervisedLoss(nn.Module):
    """(model, windows, labels) → Losses over frames of all windows, and of all processes.

    Shape:
        waveform (window, sample), labels (window, frame) → every drawn frame of c is an anchor, and a key of all
        others. Frames without a label (−1) are neither.
    """

    def __init__(self, config: SupervisedConfig, model: CPC) -> None:
        super().__init__()
        self.config, self.calibration = config, None
        self.projection = build_projection(config.projection, model.hidden)

    def forward(
        self,
        model: CPC,
        waveform: Float[Tensor, "window sample"],
        labels: Int[Tensor, "window frame"],
        generator: torch.Generator,
        share: BatchShard = FULL_BATCH,
    ) -> Losses:
        """Draw frames, and ask how well those of a kind find each other."""
        c = model(waveform).c
        size = share.whole(len(c)), self.config.each  # drawn for the whole batch, so that a division changes nothing
        times = torch.randint(c.shape[1], size, generator=generator, device=c.device)[share.places(len(c))]
        frames = c.gather(1, times[:, :, None].expand(-1, -1, c.shape[2])).flatten(0, 1)
        keys = gather_all(upcast(self.projection(frames)))
        kinds = gather_all(labels.gather(1, times).flatten())
        scores = upcast(self.config.score(keys[None], keys[None])[0])
        own = torch.arange(len(kinds), device=kinds.device)
        return of_pairs(contrast_labels(scores, kinds, kinds, own, self.config))

    def on_step_end(self, model: CPC) -> None:
        """After a step of the optimizer: nothing is kept."""

    def reset(self) -> None:
        """Nothing is kept."""
