"""Model and loss as one module: what a batch goes through, whatever the method."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.distributed import World
from cpc.losses.cpc import CPCLoss, CPCLossConfig, Losses
from cpc.losses.instance import InstanceConfig, InstanceLoss
from cpc.losses.sharding import BatchShard
from cpc.losses.supervised import ClassificationLoss, FrameLabels, SupervisedConfig, SupervisedLoss
from cpc.models.cpc import CPC
from cpc.seeding import derive
from cpc.training.recipe import Recipe


class Batch(NamedTuple):
    """Windows, with another view of them where the future is augmented apart from the past, and their labels if any."""

    past: Float[Tensor, "window sample"]
    future: Float[Tensor, "window sample"] | None = None
    labels: Int[Tensor, "window *frame"] | None = None

    def chunk(self, parts: int) -> list["Batch"]:
        """The batch in `parts` equal parts."""
        chunks = [[None] * parts if part is None else part.chunk(parts) for part in self]
        return [Batch(*pieces) for pieces in zip(*chunks, strict=True)]


Criterion = CPCLoss | InstanceLoss | SupervisedLoss | ClassificationLoss


class Network(nn.Module):
    """Batch → Losses, as DistributedDataParallel wants it."""

    def __init__(self, model: CPC, criterion: Criterion) -> None:
        super().__init__()
        self.model, self.criterion = model, criterion

    def forward(self, batch: Batch, generator: torch.Generator, share: BatchShard) -> Losses:
        if isinstance(self.criterion, CPCLoss):
            frames: Losses = self.criterion(self.model(batch.past, future=batch.future), generator, share)
            return frames
        labelled: Losses = self.criterion(self.model, batch.past, batch.labels, generator, share)
        return labelled


def build_criterion(recipe: Recipe, model: CPC, corpus: Corpus) -> Criterion:
    """The loss of a recipe for a model, on the model's device; its weights depend on the recipe alone.

    Raises:
        InputError: windows too short for it, or a corpus without its labels.
    """
    _check_geometry(recipe, model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(recipe.seed, "heads"))
        if isinstance(recipe.loss, CPCLossConfig):
            built: Criterion = CPCLoss.build(recipe.loss, model.dim, model.hidden)
        elif isinstance(recipe.loss, SupervisedConfig):
            built = SupervisedLoss(recipe.loss, model)
        elif isinstance(recipe.loss, InstanceConfig):
            built = InstanceLoss(recipe.loss, model)
        else:
            built = ClassificationLoss(recipe.loss, model, FrameLabels(corpus, recipe.loss.labels).classes)
        return built.to(next(model.parameters()).device)


def parallel(network: Network, world: World) -> nn.Module:
    """The module whose backward pass averages gradients over processes."""
    if world.size == 1:
        return network
    return DistributedDataParallel(
        network,
        device_ids=[world.device.index] if world.device.type == "cuda" else None,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
    )


def trained(*modules: nn.Module) -> list[nn.Parameter]:
    """The parameters that the optimizer changes; a slow copy's are not among them."""
    return [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]


def _check_geometry(recipe: Recipe, model: CPC) -> None:
    samples = recipe.data.window_size
    if isinstance(recipe.loss, CPCLossConfig):
        if (frames := model.frames(samples)) <= recipe.loss.prediction_steps:
            raise InputError(
                f"data.window_size={samples}: gives {frames} frames, which must exceed "
                f"loss.prediction_steps={recipe.loss.prediction_steps}; use longer windows or fewer steps"
            )
        return
    if not isinstance(recipe.loss, InstanceConfig):
        if model.frames(samples) < 1:
            raise InputError(f"data.window_size={samples}: too short for one frame of {model.receptive_field} samples")
        return
    crop = recipe.loss.views.crop or samples
    if crop > samples:
        raise InputError(f"loss.views.crop={crop}: is longer than data.window_size={samples}; crop less, or draw more")
    if model.frames(crop) < 1:
        raise InputError(f"loss.views.crop={crop}: too short for one frame of {model.receptive_field} samples")
