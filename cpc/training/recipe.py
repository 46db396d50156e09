"""The recipe: every setting of a training run, in one frozen dataclass that YAML validates into."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from cpc.augment.compose import AugmentConfig
from cpc.config import STRICT, load
from cpc.data.sampler import WindowConfig
from cpc.device import Precision
from cpc.losses.cpc import CPCLossConfig
from cpc.losses.instance import InstanceConfig
from cpc.losses.supervised import ClassificationConfig, SupervisedConfig
from cpc.models.cpc import ModelConfig
from cpc.training.optim import OptimConfig


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig(WindowConfig):
    """A packed corpus, its split to train on (all of it if None), and its split of unseen speakers to validate on.

    Without a split `valid`, a share `val_fraction` of the training speakers is set aside and never trained on.

    corpus: folder of a packed corpus, or a list of folders that are read as one.
    train: split to train on; null for the whole corpus.
    valid: split to validate on; null to set speakers of the training split aside.
    val_fraction: fraction of the training speakers that is set aside where `valid` is null.
    """

    corpus: str | tuple[str, ...]
    train: str | None = None
    valid: str | None = None
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05


@dataclass(frozen=True, config=STRICT)
class TrainingConfig:
    """How long, on what, and how often things are written. Intervals are in steps (updates).

    gradient_accumulation_steps: micro-batches whose union is the batch of a step.
    cuda_graph: forward and backward are launched as one CUDA graph: 8.6 × as fast at batch 8. auto: wherever it can be.
    max_steps: updates until the end.
    device: auto, cpu, cuda, or cuda:N.
    precision: auto takes bf16 where the processor multiplies it, fp32 elsewhere.
    gpu_cache_fraction: fraction of a GPU's free memory that the corpus may take there; a larger one is streamed.
    compile: the encoder goes through torch.compile, which fuses its kernels. auto: on a GPU, for runs that repay it.
    log_every: steps between two points of a curve.
    validate_every: steps between two validations.
    validate_batches: batches of a validation, always the same.
    checkpoint_every: steps between two checkpoints.
    """

    max_steps: Annotated[int, Field(ge=1)] = 10_000
    device: str = "auto"
    precision: Precision = "auto"
    compile: Literal["auto", True, False] = "auto"
    cuda_graph: Literal["auto", True, False] = "auto"
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 1
    gpu_cache_fraction: Annotated[float, Field(ge=0, le=1)] = 0.5
    log_every: Annotated[int, Field(ge=1)] = 50
    validate_every: Annotated[int, Field(ge=1)] = 500
    validate_batches: Annotated[int, Field(ge=1)] = 16
    checkpoint_every: Annotated[int, Field(ge=1)] = 500


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """Everything that determines a run, beside the corpus itself.

    data: the corpus, its splits, and the windows of a step.
    experiment: name of the MLflow experiment that the run belongs to.
    seed: of everything random: weights, windows, negatives, augmentation.
    model: encoder and context network.
    loss: what is learnt: frames ahead (cpc), utterances (instance), labels by contrast (supervised) or by a
        classifier (classification).
    augment: how the past and the future that CPC sees are changed.
    optim: the optimiser and its learning rate.
    training: how long, on what, and how often things are written.
    """

    data: DataConfig
    experiment: str = "cpc"
    seed: int = 0
    model: ModelConfig = Field(default_factory=ModelConfig)
    loss: CPCLossConfig | InstanceConfig | SupervisedConfig | ClassificationConfig = Field(
        default_factory=CPCLossConfig, discriminator="kind"
    )
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)


def load_config(source: str | Path | dict[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a YAML file (or a mapping) and `key=value` overrides.

    Args:
        source: a YAML file, the name of a preset, or nested settings.
        overrides: settings that win, such as `optim.lr=1e-3`.

    Returns:
        the recipe, its defaults filled in.

    Raises:
        InputError: one line for every setting that is wrong.
    """
    return load(Recipe, source, overrides)
