"""One vector an utterance: two views of it belong together, or all utterances of one speaker do.

SimCLR, MoCo, a memory bank, supervised contrast, triplets, margins and SimCSE are settings of this one loss: what is
a view, what has the same label, which keys are scored, and by which objective (cpc/losses).
"""

from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from cpc.augment.compose import Augmentation, augment
from cpc.augment.crop import Crop
from cpc.augment.parameters import BatchPart, Rows, fraction
from cpc.config import STRICT, validate
from cpc.device import upcast
from cpc.distributed import gather_all
from cpc.losses.contrast import Calibration, Learnt, contrast_labels
from cpc.losses.cpc import Losses, of_pairs
from cpc.losses.memory_bank import Momentum, Queue
from cpc.losses.objectives import InfoNCE, Objective
from cpc.losses.scores import Cosine, Score, check_uncentred
from cpc.losses.sharding import FULL_BATCH, BatchShard
from cpc.models.checkpoint import checkpoint_file, read_checkpoint
from cpc.models.cpc import CPC
from cpc.models.pooling import MeanConfig, Pooling, PoolingConfig, ProjectionConfig, build_pooling, build_projection


@dataclass(frozen=True, config=STRICT)
class ViewsConfig:
    """How two views are made of a window: a random crop of `crop` samples (None: all of it), then the chain `augment`,
    and on the frames of c a dropout of rate `dropout` (two passes of which are two views: Gao et al. 2021, SimCSE).

    crop: samples of a random crop; null for the whole window.
    augment: augmentations of each view, one after the other.
    dropout: rate of dropout on the frames of c.
    """

    crop: Annotated[int, Field(ge=1)] | None = 20480
    augment: tuple[Augmentation, ...] = ()
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


@dataclass(frozen=True, config=STRICT)
class QueueConfig:
    """Keys of past batches are scored too, the newest `size` (He et al. 2020).

    Keys come from a copy of the network that follows with `momentum` (MoCo), or, without, from the network itself:
    then those of past batches are as they were made (a memory bank; Wu et al. 2018, as MoCo's figure 3 compares it).

    size: keys of past batches that are kept.
    momentum: pace of the slow copy that makes the keys; null for the network itself.
    """

    size: Annotated[int, Field(ge=1)] = 4096
    momentum: Annotated[float, Field(ge=0, le=1)] | None = 0.999


@dataclass(frozen=True, config=STRICT)
class InstanceConfig:
    """What belongs together, and how it is told. `mining` and `margin` choose among the negatives.

    learnable: what of the scores is learnt (see `Calibration`).

    positives: what belongs together: two views of an utterance, or all utterances of a speaker.
    pooling: how the frames of c become one vector.
    score: how alike two vectors are.
    objective: the loss of a positive and its negatives.
    mining: which negatives count.
    queue: keys of past batches; null for those of the batch alone.
    margin: of semi-hard mining: how far below the positive a negative may score.
    """

    positives: Literal["utterance", "speaker"] = "utterance"
    views: ViewsConfig = Field(default_factory=ViewsConfig)
    pooling: PoolingConfig = Field(default_factory=MeanConfig)
    projection: ProjectionConfig = Field(default_factory=ProjectionConfig)
    score: Score = Field(default_factory=Cosine)
    objective: Objective = Field(default_factory=InfoNCE)
    mining: Literal["all", "hard", "semi_hard"] = "all"
    margin: Annotated[float, Field(gt=0)] = 0.2
    queue: QueueConfig | None = None
    learnable: tuple[Learnt, ...] = ()
    kind: Literal["instance"] = "instance"

    @model_validator(mode="after")
    def _checked(self) -> "InstanceConfig":
        check_uncentred(self.score)
        return self


def load_pooling(path: str | Path, model: CPC) -> Pooling | None:
    """The pooling of a run folder or checkpoint, on the model's device; None where nothing of it was learnt."""
    header, tensors = read_checkpoint(checkpoint_file(path))
    given = header["config"]["loss"]
    if given.get("kind") != "instance" or given["pooling"]["kind"] == "mean":
        return None
    pooling = build_pooling(validate(InstanceConfig, given).pooling, model.hidden)
    prefix = "loss.pooling."
    pooling.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    return pooling.to(next(model.parameters()).device).eval()


class InstanceLoss(nn.Module):
    """(model, windows, labels) → Losses; `on_step_end` is for after the optimizer's step.

    Shape:
        waveform (window, sample), labels (window) → each window makes two vectors (dim). All of them are anchors and
        keys; with a queue the first views are anchors, and the keys are the second views and those of the queue.
        Over processes, the vectors of all of them are contrasted with each other.
    """

    def __init__(self, config: InstanceConfig, model: CPC) -> None:
        super().__init__()
        self.config = config
        self.pooling = build_pooling(config.pooling, model.hidden)
        self.projection = build_projection(config.projection, model.hidden)
        dim = config.projection.dim if config.projection.layers else model.hidden
        self.calibration = Calibration(config.learnable) if config.learnable else None
        self.queue = Queue(config.queue.size, dim) if config.queue else None
        pace = config.queue.momentum if config.queue else None
        self.momentum = None if pace is None else Momentum(self._network(model), pace)
        self._made: list[tuple[Tensor, Tensor]] = []  # keys and labels that the queue has yet to take

    def forward(
        self,
        model: CPC,
        waveform: Float[Tensor, "window sample"],
        labels: Int[Tensor, "window"],
        generator: torch.Generator,
        share: BatchShard = FULL_BATCH,
    ) -> Losses:
        """Two views of each window, their vectors, and how well those of a kind find each other.

        What is drawn is drawn for the whole batch, so that a division of it changes nothing.
        """
        total = share.whole(len(waveform))
        source = BatchPart(generator, Rows(np.arange(total)[share.places(len(waveform))], total))
        first, second = (self._view(waveform, source, model.sample_rate) for _ in range(2))
        labels = gather_all(labels)
        if self.queue is None:
            network = self._network(model)
            pooled = gather_all(torch.cat([self._pooled(network, view, source) for view in (first, second)], dim=1))
            anchors = keys = self._projected(network, torch.cat(pooled.chunk(2, dim=1)))
            labels = key_labels = labels.repeat(2)
            own = torch.arange(len(labels), device=labels.device)
        else:
            anchors, new = self._vectors(model, first, source), self._keys(model, second, source)
            held, own = self.queue(), None
            keys, key_labels = torch.cat([new, held.keys]), torch.cat([labels, held.labels])
            if self.training:
                self._made.append((new.detach(), labels))
        scores = upcast(self.config.score(anchors[None], keys[None])[0])
        scores = scores if self.calibration is None else self.calibration(scores)
        return of_pairs(contrast_labels(scores, labels, key_labels, own, self.config))

    @torch.no_grad()
    def on_step_end(self, model: CPC) -> None:
        """After a step of the optimizer: the slow copy follows, and the queue takes the step's keys."""
        if self.momentum is not None:
            self.momentum.update(self._network(model))
        for keys, labels in self._made:
            if self.queue is not None:
                self.queue.enqueue(keys, labels)
        self.reset()

    def reset(self) -> None:
        """Drop what the queue has yet to take."""
        self._made.clear()

    def embed(self, model: CPC, waveform: Float[Tensor, "window sample"]) -> Float[Tensor, "window hidden"]:
        """What the projection is put on: c, pooled."""
        return self._pooled(nn.ModuleList([model, self.pooling]), waveform)

    def _network(self, model: CPC) -> nn.ModuleList:
        return nn.ModuleList([model, self.pooling, self.projection])

    def _view(
        self, waveform: Float[Tensor, "window sample"], source: BatchPart, sample_rate: int
    ) -> Float[Tensor, "window cropped"]:
        views = self.config.views
        crop = [Crop(views.crop)] if views.crop else []
        return augment(waveform, [*chain(crop, views.augment)], source, sample_rate)

    def _vectors(
        self, model: CPC, waveform: Float[Tensor, "window sample"], source: BatchPart
    ) -> Float[Tensor, "every dim"]:
        return self._gathered_vectors(self._network(model), waveform, source)

    def _keys(
        self, model: CPC, waveform: Float[Tensor, "window sample"], source: BatchPart
    ) -> Float[Tensor, "every dim"]:
        if self.momentum is None:
            return self._vectors(model, waveform, source)
        with torch.no_grad():
            return self._gathered_vectors(self.momentum.network, waveform, source)

    def _gathered_vectors(
        self, network: nn.Module, waveform: Float[Tensor, "window sample"], source: BatchPart
    ) -> Float[Tensor, "every dim"]:
        """The vectors of the windows of all processes: a norm over the batch is one over the whole batch."""
        return self._projected(network, gather_all(self._pooled(network, waveform, source)))

    def _projected(self, network: nn.Module, pooled: Float[Tensor, "every hidden"]) -> Float[Tensor, "every dim"]:
        projection = list(network.children())[2]
        vectors: Tensor = projection(pooled)
        return upcast(vectors)

    def _pooled(
        self, network: nn.Module, waveform: Float[Tensor, "window sample"], source: BatchPart | None = None
    ) -> Float[Tensor, "window hidden"]:
        """With a source, after dropout, if that is a part of the views."""
        model, pooling = list(network.children())[:2]
        frames, rate = model(waveform).c, self.config.views.dropout
        if source and rate and self.training:
            kept = fraction(tuple(frames.shape[1:]), frames, source) >= rate
            frames = frames * kept / (1 - rate)
        pooled: Tensor = pooling(frames)
        return pooled
