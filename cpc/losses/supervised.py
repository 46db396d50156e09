"""What is learnt from labels of frames: by contrast (Khosla et al. 2020, on phones), or by a linear classifier.

No method without labels beats them on their own labels, which makes them the other end of the scale from random
weights.
"""

import math
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from cpc.config import STRICT
from cpc.data.corpus import Corpus
from cpc.data.sampler import WindowSampler
from cpc.data.splits import has_speaker
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


@dataclass(frozen=True, config=STRICT)
class ClassificationConfig:
    """A linear layer on c tells the label of every frame: "Supervised" in Tables 1 and 2 of van den Oord et al. 2018.

    labels: name of the labels in the corpus, or `speaker` for who speaks.
    """

    labels: str = "phones"
    kind: Literal["classification"] = "classification"


class FrameLabels:
    """The label that holds at the centre of each frame of a window, by its number among `classes`.

    Args:
        corpus: has the labels.
        labels: their name in the corpus; `speaker`, if it has none of that name, is who speaks.

    Raises:
        InputError: the corpus has no such labels.
    """

    def __init__(self, corpus: Corpus, labels: str) -> None:
        self.corpus = corpus
        self.speakers: Int64[np.ndarray, " row"] | None = None
        if labels == "speaker" and labels not in corpus.schemes():
            names, speakers = corpus.groups("speaker")
            self.speakers = np.where(has_speaker(corpus, np.arange(len(corpus))), speakers, -1).astype(np.int64)
            self.classes = len(names)
        else:
            self.alignment = corpus.labels(labels)
            self.classes = len(self.alignment.inventory)

    def of(self, windows: WindowSampler, step: int, model: CPC) -> Int64[np.ndarray, "window frame"]:
        """Those of the windows of a step; −1 where there is none."""
        frames, rate = model.frames(windows.config.window_size), model.sample_rate
        rows, starts = windows.draw(step)
        if self.speakers is not None:
            return np.repeat(self.speakers[rows][:, None], frames, axis=1)
        centres, found = model.frame_centres(frames), np.full((len(rows), frames), -1, np.int64)
        for own, row, start in zip(found, rows.tolist(), starts.tolist(), strict=True):
            if (id := self.corpus.ids[row]) in self.alignment:
                own[:] = self.alignment.frames(id, start / rate + centres)
        return found


class _LabelledLoss(nn.Module):
    """What losses by labels of frames have in common: nothing is learnt beside the weights, nothing kept."""

    calibration = None

    def on_step_end(self, model: CPC) -> None:
        """After a step of the optimizer: nothing is kept."""

    def reset(self) -> None:
        """Nothing is kept."""


class SupervisedLoss(_LabelledLoss):
    """(model, windows, labels) → Losses over frames of all windows, and of all processes.

    Shape:
        waveform (window, sample), labels (window, frame) → every drawn frame of c is an anchor, and a key of all
        others. Frames without a label (−1) are neither.
    """

    def __init__(self, config: SupervisedConfig, model: CPC) -> None:
        super().__init__()
        self.config = config
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


class ClassificationLoss(_LabelledLoss):
    """(model, windows, labels) → Losses: the cross-entropy of a linear layer on every frame of c.

    Shape:
        waveform (window, sample), labels (window, frame), of which −1 is none → the mean over the labelled frames of
        all windows, and of all processes; nothing is learnt from a batch without any.
    """

    def __init__(self, config: ClassificationConfig, model: CPC, classes: int) -> None:
        super().__init__()
        self.config = config
        self.head = nn.Linear(model.hidden, classes)

    def forward(
        self,
        model: CPC,
        waveform: Float[Tensor, "window sample"],
        labels: Int[Tensor, "window frame"],
        generator: torch.Generator,
        share: BatchShard = FULL_BATCH,
    ) -> Losses:
        """How well the layer tells the labels; nothing is drawn."""
        logits, labels = upcast(self.head(model(waveform).c)).flatten(0, 1), labels.flatten()
        counts = gather_all((labels >= 0).sum()[None])
        each = len(counts) / counts.sum().clamp_min(1)  # so that the mean over processes is that over their frames
        loss = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum") * each
        accuracy = (logits.argmax(1) == labels).sum() * each
        nothing = torch.full_like(loss.detach()[None], math.nan)
        return Losses(loss, loss[None], accuracy[None], nothing, math.log(self.head.out_features))
