"""The recipe: every setting of a training run, in one frozen dataclass that YAML validates into."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from cpc.augment import AugmentConfig
from cpc.config import STRICT, load
from cpc.device import Precision
from cpc.labelled import LabelledConfig
from cpc.model import ModelConfig
from cpc.objective import LossConfig
from cpc.training.schedule import OptimConfig
from cpc.utterance import UtteranceConfig
from cpc.windows import WindowsConfig


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    """A packed corpus, its split to train on (all of it if None), and its split of unseen speakers to validate on.

    Without a split `valid`, a share `held_out` of the training speakers is set aside and never trained on.
    """

    corpus: str
    train: str | None = None
    valid: str | None = None
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.05


@dataclass(frozen=True, config=STRICT)
class TrainingConfig:
    """How long, on what, and how often things are written. Intervals are in steps (updates).

    accumulate: micro-batches whose union is the batch of a step. hold: the share of a GPU's free memory that the
    corpus may take there; a larger one is streamed. compile: the encoder, by torch.compile. cuda_graph: forward and
    backward are launched as one CUDA graph, for batches so small that a GPU waits for their launches.
    """

    steps: Annotated[int, Field(ge=1)] = 10_000
    device: str = "auto"
    precision: Precision = "auto"
    compile: bool = False
    cuda_graph: bool = False
    accumulate: Annotated[int, Field(ge=1)] = 1
    hold: Annotated[float, Field(ge=0, le=1)] = 0.5
    log_every: Annotated[int, Field(ge=1)] = 50
    validate_every: Annotated[int, Field(ge=1)] = 500
    validate_batches: Annotated[int, Field(ge=1)] = 16
    checkpoint_every: Annotated[int, Field(ge=1)] = 500


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """Everything that determines a run, beside the corpus itself."""

    data: DataConfig
    experiment: str = "cpc"
    seed: int = 0
    model: ModelConfig = Field(default_factory=ModelConfig)
    loss: LossConfig | UtteranceConfig | LabelledConfig = Field(default_factory=LossConfig, discriminator="kind")
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    windows: WindowsConfig = Field(default_factory=WindowsConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)


def load_config(source: str | Path | dict[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a YAML file (or a mapping) and `key=value` overrides.

    Raises:
        InputError: one line for every setting that is wrong.
    """
    return load(Recipe, source, overrides)
