"""A job: everything that changes while training, and how one step changes it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cpc import distributed
from cpc.config import InputError, dump
from cpc.corpus import Corpus
from cpc.corpus.splits import hold_out
from cpc.model import CPC, build
from cpc.objective import CPCLoss, Losses
from cpc.seeding import derive, torch_generator
from cpc.training import checkpoint
from cpc.training.recipe import Recipe
from cpc.training.schedule import learning_rate, optimizer
from cpc.windows import Windows


@dataclass
class Job:
    """A recipe in flight. `step` counts the updates done; `best` is the lowest validation loss so far."""

    recipe: Recipe
    corpus: Corpus
    model: CPC
    criterion: CPCLoss
    optimizer: torch.optim.Optimizer
    windows: Windows
    valid: Windows | None
    device: torch.device
    bf16: bool
    step: int = 0
    best: float = float("inf")
    seconds: float = 0.0  # spent training, over every resumption
    identity: dict[str, Any] = field(default_factory=dict)  # the run's name and MLflow id

    @classmethod
    def start(cls, recipe: Recipe) -> "Job":
        """A job at step 0; its weights depend on the recipe alone."""
        corpus = Corpus.open(recipe.data.corpus)
        if corpus.sample_rate != recipe.model.sample_rate:
            raise InputError(
                f"model.sample_rate={recipe.model.sample_rate}: {corpus.path} is at {corpus.sample_rate} Hz; "
                "they must agree, so pack it again or change the setting"
            )
        device = distributed.device(recipe.training.device)
        distributed.keep_freed_memory(device)
        model = build(recipe.model, recipe.seed).to(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(recipe.seed, "heads"))
            criterion = CPCLoss.build(recipe.loss, model.dim, model.hidden).to(device)
        _check_geometry(recipe, model)
        if recipe.training.compile:
            model.encoder.compile()
        train, valid = _windows(recipe, corpus)
        parameters = [*model.parameters(), *criterion.parameters()]
        return cls(
            recipe,
            corpus,
            model,
            criterion,
            optimizer(recipe.optim, parameters),
            train,
            valid,
            device,
            bf16=distributed.precision(recipe.training.precision, device) == "bf16",
        )

    def update(self, step: int, waveform: Float[Tensor, "batch sample"]) -> tuple[Losses, Float[Tensor, ""]]:
        """One step of gradient descent; gives the losses and the gradient's norm, both still on the device."""
        seed, optim = self.recipe.seed, self.recipe.optim
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(optim, step, self.recipe.training.steps)
        torch.manual_seed(derive(seed, "step", step))  # for whatever a module draws by itself, such as dropout
        losses = self.losses(waveform, torch_generator(self.device, seed, "negatives", step))
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(losses.loss)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, optim.clip or float("inf"))
        self.optimizer.step()
        self.step = step + 1
        return losses, norm

    def losses(self, waveform: Float[Tensor, "batch sample"], generator: torch.Generator) -> Losses:
        """Waveform → z, c → InfoNCE over K steps."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            return self.criterion(self.model(waveform), generator)  # type: ignore[no-any-return] # nn.Module gives Any

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [*self.model.parameters(), *self.criterion.parameters()]

    @property
    def precision(self) -> str:
        return "bf16" if self.bf16 else "fp32"

    def save(self, path: Path) -> None:
        """Everything that the next step depends on, in one file."""
        header = {"config": dump(self.recipe), "step": self.step, "best": self.best, "seconds": self.seconds}
        header |= {"corpus": self.corpus.digest, "precision": self.precision, **self.identity}
        checkpoint.save(path, {"model": self.model, "loss": self.criterion}, self.optimizer, header)

    def restore(self, path: Path) -> None:
        """Continue from what `save` wrote.

        Raises:
            InputError: the corpus is not the one that the checkpoint was trained on.
        """
        header = checkpoint.restore(path, {"model": self.model, "loss": self.criterion}, self.optimizer)
        if header["corpus"] != self.corpus.digest:
            raise InputError(
                f"data.corpus={self.corpus.path}: its contents changed since {path} was written; "
                "restore that corpus, or start a new run"
            )
        self.step, self.best, self.seconds = header["step"], header["best"], header["seconds"]


def _windows(recipe: Recipe, corpus: Corpus) -> tuple[Windows, Windows | None]:
    """Windows to train on, and windows of unseen speakers to validate on."""
    data = recipe.data
    rows = corpus.rows(data.train) if data.train else np.arange(len(corpus))
    valid = corpus.rows(data.valid) if data.valid else None
    if valid is None and data.held_out:
        rows, valid = hold_out(corpus, data.held_out, recipe.seed, by="speaker", rows=rows)
    train = Windows(corpus, rows, recipe.windows, recipe.seed)
    if valid is None or not len(valid):
        return train, None
    return train, Windows(corpus, valid, recipe.windows, derive(recipe.seed, "valid"))


def _check_geometry(recipe: Recipe, model: CPC) -> None:
    frames = model.frames(recipe.windows.samples)
    if frames <= recipe.loss.steps:
        raise InputError(
            f"windows.samples={recipe.windows.samples}: gives {frames} frames, which must exceed "
            f"loss.steps={recipe.loss.steps}; use longer windows or fewer steps"
        )
