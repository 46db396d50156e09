"""The trainer: everything that changes while training, the loop, and how one step changes it."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cpc.augment.compose import views
from cpc.augment.noise import FolderNoise
from cpc.augment.parameters import Rows
from cpc.augment.recordings import fingerprint
from cpc.augment.reverb import MeasuredReverb
from cpc.config import InputError, dump
from cpc.data.corpus import Corpus
from cpc.data.sampler import WindowSampler, to_float
from cpc.data.splits import has_speaker, hold_out
from cpc.device import device as find_device
from cpc.device import precision as chosen_precision
from cpc.device import tf32
from cpc.distributed import Vote, World
from cpc.losses.cpc import Losses, mean
from cpc.losses.instance import InstanceConfig, InstanceLoss
from cpc.losses.sharding import BatchShard
from cpc.losses.supervised import ClassificationConfig, FrameLabels, SupervisedConfig
from cpc.models import checkpoint
from cpc.models.checkpoint import initialise
from cpc.models.cpc import CPC, build
from cpc.seeding import derive, torch_generator
from cpc.tracking.mlflow import Tracker
from cpc.training.batching import BatchPartition, divide
from cpc.training.collapse import CollapseMonitor
from cpc.training.cuda_graph import Graph, compiles, uses_graph
from cpc.training.metrics import Meter, NotFinite
from cpc.training.network import Batch, Criterion, Network, build_criterion, parallel, trained
from cpc.training.optim import learning_rate, optimizer
from cpc.training.progress import Display, SignalHandler
from cpc.training.recipe import Recipe

Splits = tuple[Int[np.ndarray, "train"], Int[np.ndarray, "valid"]]  # rows of a corpus to train and to validate on
Hopeless = Callable[[int, Mapping[str, float]], bool]


@dataclass
class Trainer:
    """A recipe in flight. `step` counts the updates done; `best` is the lowest validation loss so far."""

    recipe: Recipe
    corpus: Corpus
    model: CPC
    criterion: Criterion
    optimizer: torch.optim.Optimizer
    windows: WindowSampler
    valid: WindowSampler | None
    world: World
    division: BatchPartition
    network: nn.Module
    precision: str
    step: int = 0
    best: float = float("inf")
    seconds: float = 0.0  # spent training, over every resumption
    origin: str = ""  # what the weights were taken from, in words
    identity: dict[str, Any] = field(default_factory=dict)  # the run's name and MLflow id

    @classmethod
    def start(
        cls, recipe: Recipe, world: World | None = None, new: bool = True, splits: Splits | None = None
    ) -> "Trainer":
        """A trainer at step 0; its weights depend on the recipe alone. Every process of a `world` starts its own.

        Args:
            recipe: every setting.
            world: the processes that train together; this one alone by default.
            new: false where a checkpoint is about to be restored: the weights that `model.init` names are not read.
            splits: the rows to train and to validate on, in place of the splits that the recipe names.

        Raises:
            InputError: the recipe does not fit the corpus, the device or the number of processes.
        """
        world = world or World(find_device(recipe.training.device))
        division = divide(recipe, world)
        graph = uses_graph(recipe, world)  # refused now where there can be none, not at the first step
        corpus = Corpus.open(recipe.data.corpus)
        if corpus.sample_rate != recipe.model.sample_rate:
            raise InputError(
                f"model.sample_rate={recipe.model.sample_rate}: {corpus.path} is at {corpus.sample_rate} Hz; "
                "they must agree, so pack it again or change the setting"
            )
        device = world.device
        precision = chosen_precision(recipe.training.precision, device)
        model = build(recipe.model, recipe.seed).to(device)
        criterion = build_criterion(recipe, model, corpus)
        origin = initialise(recipe.model.init, model, criterion) if recipe.model.init and new else ""
        if compiles(recipe, world):
            model.encoder.compile()
        train, valid = _windows(recipe, corpus, division, splits)
        trainer = cls(
            recipe,
            corpus,
            model,
            criterion,
            optimizer(recipe.optim, model, criterion),
            train,
            valid,
            world,
            division,
            parallel(Network(model, criterion), World(device) if graph else world),
            precision,
            origin=origin,
        )
        _ = trainer.frame_labels  # missing ones are said now, not at the first step
        if world.size > 1 and not graph:
            trainer._rehearse()
        return trainer

    def _rehearse(self) -> None:
        """One backward pass that counts for nothing, after which DDP adds gradients up in its final order.

        Without it the first step of a resumed run would add up in another order than an uninterrupted one did.
        """
        silence = torch.zeros(self.division.share, self.recipe.data.window_size, device=self.device)
        labels = silence[:, 0].long()
        if self.frame_labels:
            labels = labels[:, None].expand(-1, self.model.frames(silence.shape[1]))
        batch = Batch(silence, silence if self._two_views else None, labels)
        generator = torch_generator(self.device, self.recipe.seed, "rehearsal")
        losses = self._losses(self.network, batch, generator, self.division.shares()[0])
        torch.autograd.backward(losses.loss)
        self.optimizer.zero_grad(set_to_none=True)
        self.criterion.reset()

    # --- The loop.

    def fit(
        self,
        folder: Path,
        tracker: Tracker | None,
        display: Display,
        stop: SignalHandler,
        hopeless: Hopeless | None = None,
    ) -> dict[str, float]:
        """Train until the recipe's last step or a request to stop.

        Every process of a world calls it; the one with a tracker tracks, and watches for collapse.

        Args:
            folder: of the run, for its checkpoints.
            tracker: takes the metrics; None in every process but the first.
            display: the bar and the lines.
            stop: asked once a step whether a signal came.
            hopeless: asked after each validation, with the step and the metrics, whether to stop early; the run then
                stops a step later.

        Returns:
            The latest value of every metric.

        Raises:
            NotFinite: the loss is no longer a number; the last good checkpoint is untouched.
        """
        settings, vote, latest = self.recipe.training, Vote(self.world), dict[str, float]()
        meter = Meter(self.recipe.data.batch_size * self.recipe.data.window_size / self.corpus.sample_rate, self.world)
        record = tracker.metrics if tracker else _record_nothing
        monitor = CollapseMonitor(self.recipe.optim.warmup_steps, display.say, tracker.tag) if tracker else None
        began, before = time.perf_counter(), self.seconds
        self.train(True)
        for step, waveform in self.windows.batches(self.step, settings.max_steps, self.device):  # (window, sample)
            losses, norm = self.update(step, waveform)
            meter.add(losses, norm)
            done, last, halt = self.step, self.step == settings.max_steps, vote.cast(stop.requested is not None)
            display.step(done)

            log, validate = (last or done % n == 0 for n in (settings.log_every, settings.validate_every))
            save = last or halt or done % settings.checkpoint_every == 0
            if (log or save) and not meter.finite:
                raise NotFinite(self._diagnosis(folder))
            if log:
                values = meter.read("train") | {"optim/lr": self.optimizer.param_groups[0]["lr"]}
                values |= self.criterion.calibration.metrics() if self.criterion.calibration else {}
                record(values, done)
                display.metrics(values, done)
                latest |= values
            if validate:
                values = self._validated(latest, monitor, display)
                record(values, done)
                latest |= values
                if hopeless and done + 1 < settings.max_steps and hopeless(done, latest):  # else it is finished
                    stop.requested = "early stopping"
            better = validate and latest.get("valid/loss", math.inf) < self.best
            if better:
                self.best = latest["valid/loss"]
            self.seconds = before + time.perf_counter() - began
            if better:
                self.save(folder / "best.safetensors")
            if save:
                self.save(folder / "last.safetensors")
            if halt:
                break
        return latest

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss and accuracy on the same windows and negatives every time, of speakers that are not trained on."""
        if self.valid is None:
            return {}
        meter = Meter(0.0, self.world)
        self.train(False)
        for number, waveform in self.valid.batches(0, self.recipe.training.validate_batches, self.device):
            generator = torch_generator(self.device, derive(self.recipe.seed, "valid"), number)
            meter.add(self.losses(self.labelled(self.valid, number, waveform), generator))
        self.train(True)
        return meter.read("valid")

    def _validated(
        self, latest: Mapping[str, float], monitor: CollapseMonitor | None, display: Display
    ) -> dict[str, float]:
        """The losses on validation windows, said, and how z and c spread where somebody looks at it."""
        values = self.validate()
        if values:
            display.say(f"step {self.step}: validation loss {values['valid/loss']:.3f} on unseen speakers")
        if monitor:  # over one batch, always the same; of training windows where none is held out
            waveform = to_float((self.valid or self.windows).read(0).to(self.device))
            newest = {**latest, **values}
            values |= monitor.examine(self.step, self.model, self.criterion, waveform, newest, self.bf16)
        return values

    def _diagnosis(self, folder: Path) -> str:
        bad = [n for n, p in self.model.named_parameters() if not torch.isfinite(p).all()]
        where = f"weights that are not finite: {', '.join(bad[:3]) or 'none yet'}"
        rate, last = self.optimizer.param_groups[0]["lr"], folder / "last.safetensors"
        kept = "last.safetensors is the last good checkpoint" if last.exists() else "none was saved"
        return (
            f"the loss is not a finite number at step {self.step} (learning rate {rate:.2g}, {self.precision}; "
            f"{where}). Usually the learning rate is too high: lower optim.lr, lengthen optim.warmup_steps, set "
            f"optim.max_grad_norm=1, or try training.precision=fp32. {folder}: {kept}"
        )

    # --- One step.

    def update(self, step: int, waveform: Float[Tensor, "window sample"]) -> tuple[Losses, Float[Tensor, ""]]:
        """One step of gradient descent; gives this process's losses and the norm of the gradient, which all share.

        Both are still on the device, and nothing here waits for it.
        """
        seed, optim = self.recipe.seed, self.recipe.optim
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(optim, step, self.recipe.training.max_steps)
        # For whatever a module draws by itself, such as a transformer's dropout: other numbers on every process.
        torch.manual_seed(derive(seed, "step", step, *([self.world.rank] if self.world.rank else [])))
        for generator in self._generators:
            generator.manual_seed(derive(seed, "negatives", step))
        self.optimizer.zero_grad(set_to_none=True)
        with tf32(self.precision != "fp32"):
            losses = self._compute(self._augmented(step, self.labelled(self.windows, step, waveform)))
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, optim.max_grad_norm or float("inf"))
        self.optimizer.step()
        self.criterion.on_step_end(self.model)
        self.step = step + 1
        return losses, norm

    @cached_property
    def _compute(self) -> Callable[[Batch], Losses]:
        """Losses and gradients of a batch: launched as a CUDA graph if the recipe says so.

        A graph holds what one process computes; several then average their gradients, in one exchange after it.
        """
        if not uses_graph(self.recipe, self.world):
            return self._gradients
        required = self.recipe.training.cuda_graph is True
        graph = Graph(self._gradients, self.parameters, self._generators, required)

        def averaged(batch: Batch) -> Losses:
            losses = graph(batch)
            self.world.average([one.grad for one in self.parameters if one.grad is not None])
            return losses

        return averaged if self.world.size > 1 else graph

    def _gradients(self, batch: Batch) -> Losses:
        """Losses of a batch, and their gradients in the parameters, micro-batch by micro-batch."""
        parts, micro = [], self.division.micro
        for number, (share, part) in enumerate(self._micro_batches(batch), start=1):
            with nullcontext() if number == micro else self._no_gradient_sync():
                losses = self._losses(self.network, part, self._generators[number - 1], share)
                torch.autograd.backward(losses.loss / micro)
            parts.append(losses.detach())
        return mean(parts)

    @cached_property
    def _generators(self) -> list[torch.Generator]:
        """Draw the negatives of training, one for each micro-batch; seeded anew, and alike, for each step.

        So every micro-batch draws the negatives of the whole batch, and keeps its own of them.
        """
        return [torch.Generator(self.device) for _ in range(self.division.micro)]

    @torch.no_grad()
    def losses(self, batch: Batch, generator: torch.Generator) -> Losses:
        """This process's losses for its windows of a batch."""
        plain, found = Network(self.model, self.criterion), []
        with tf32(self.precision != "fp32"):
            for share, part in self._micro_batches(batch):
                generator.manual_seed(generator.initial_seed())
                found.append(self._losses(plain, part, generator, share))
        return mean(found)

    def labelled(self, windows: WindowSampler, step: int, waveform: Float[Tensor, "window sample"]) -> Batch:
        """The windows of a step with what the loss wants to know: their utterances, their speakers, or frame labels."""
        if isinstance(self.criterion, InstanceLoss):
            labels = windows.labels(step, self.criterion.config.positives)
        elif self.frame_labels:
            labels = self.frame_labels.of(windows, step, self.model)
        else:
            return Batch(waveform)
        return Batch(waveform, None, torch.from_numpy(labels).to(self.device, non_blocking=True))

    @cached_property
    def frame_labels(self) -> FrameLabels | None:
        """The labels of frames, where the loss is told them."""
        loss = self.recipe.loss
        return (
            FrameLabels(self.corpus, loss.labels) if isinstance(loss, SupervisedConfig | ClassificationConfig) else None
        )

    def _augmented(self, step: int, batch: Batch) -> Batch:
        """Past and future as the recipe augments them."""
        config, rate = self.recipe.augment, self.corpus.sample_rate
        rows = Rows(self.division.windows(), self.division.batch)
        made = views(batch.past, config, self.recipe.seed, step, rows, rate)
        return batch._replace(past=made.past, future=made.future if self._two_views else None)

    @property
    def _two_views(self) -> bool:
        return bool(self.recipe.augment.past or self.recipe.augment.future)

    def _losses(self, network: nn.Module, batch: Batch, generator: torch.Generator, share: BatchShard) -> Losses:
        """What `network` makes of a batch."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            losses: Losses = network(batch, generator, share)
        return losses

    def _micro_batches(self, batch: Batch) -> Iterator[tuple[BatchShard, Batch]]:
        return zip(self.division.shares(), batch.chunk(self.division.micro), strict=True)

    def _no_gradient_sync(self) -> AbstractContextManager[None]:
        """Sum gradients in this process; the last micro-batch averages the sums over processes."""
        wrapped = self.network
        return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else nullcontext()

    # --- Where it is, and what is kept.

    def hold(self) -> bool:
        """Copy the corpus to the GPU if it fits in its share of the free memory; training data first."""
        if self.device.type != "cuda":
            return False  # the system's page cache does it
        for windows in (self.windows, self.valid):
            if windows is not None:
                free, _ = torch.cuda.mem_get_info(self.device)
                if windows.bytes > free * self.recipe.training.gpu_cache_fraction:
                    return windows is self.valid
                windows.hold(self.device)
        return True

    def train(self, training: bool) -> None:
        """Put model and loss in training mode, or in evaluation mode, without dropout."""
        self.model.train(training)
        self.criterion.train(training)

    @property
    def device(self) -> torch.device:
        return self.world.device

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return trained(self.model, self.criterion)

    @property
    def bf16(self) -> bool:
        return self.precision == "bf16"

    def save(self, path: Path) -> None:
        """Everything that the next step depends on, in one file, which the first process writes."""
        if not self.world.first:
            return
        header = {"config": dump(self.recipe), "step": self.step, "best": self.best, "seconds": self.seconds}
        header |= {"corpus": self.corpus.digest, "precision": self.precision, **self.identity}
        header["recordings"] = fingerprints(self.recipe)
        checkpoint.save(path, {"model": self.model, "loss": self.criterion}, self.optimizer, header)

    def restore(self, path: Path) -> None:
        """Continue from what `save` wrote.

        Raises:
            InputError: the corpus is not the one that the checkpoint was trained on.
        """
        modules = {"model": self.model, "loss": self.criterion}
        header = checkpoint.restore(self.world.agreed(lambda: checkpoint.read(path)), modules, self.optimizer)
        if header["corpus"] != self.corpus.digest:
            raise InputError(
                f"data.corpus={self.corpus.path}: its contents changed since {path} was written; "
                "restore that corpus, or start a new run"
            )
        found = fingerprints(self.recipe)
        for folder, digest in header.get("recordings", {}).items():  # checkpoints of before have none
            if folder in found and found[folder] != digest:
                raise InputError(
                    f"folder={folder}: the recordings that augment this run are others (by name or size) than when "
                    f"{path} was written; restore them, or start a new run"
                )
        self.step, self.best, self.seconds = header["step"], header["best"], header["seconds"]


def _record_nothing(values: Mapping[str, float], step: int) -> None:
    """What a process records that does not track."""


def fingerprints(recipe: Recipe) -> dict[str, str]:
    """A hash of the names and sizes of the recordings in every folder that augmentations take noise or rooms from."""
    parts: list[object] = [*recipe.augment.past, *recipe.augment.future]
    if isinstance(recipe.loss, InstanceConfig):
        parts += recipe.loss.views.augment
    folders = {part.folder for part in parts if isinstance(part, FolderNoise | MeasuredReverb)}
    return {folder: fingerprint(folder) for folder in sorted(folders)}


def _windows(
    recipe: Recipe, corpus: Corpus, division: BatchPartition, splits: Splits | None
) -> tuple[WindowSampler, WindowSampler | None]:
    """Windows to train on, and windows of unseen speakers to validate on."""
    loss, part = recipe.loss, division.windows()
    by_speaker = isinstance(loss, InstanceConfig) and loss.positives == "speaker"
    rows, valid = splits or _splits(recipe, corpus)
    train = WindowSampler(corpus, rows, recipe.data, recipe.seed, part, by_speaker)
    if valid is None or not len(valid):
        return train, None
    return train, WindowSampler(corpus, valid, recipe.data, derive(recipe.seed, "valid"), part, by_speaker)


def _splits(recipe: Recipe, corpus: Corpus) -> tuple[Int[np.ndarray, "train"], Int[np.ndarray, "valid"] | None]:
    data = recipe.data
    rows = corpus.rows(data.train) if data.train else np.arange(len(corpus))
    valid = corpus.rows(data.valid) if data.valid else None
    if valid is None and data.val_fraction:
        unknown = rows[~has_speaker(corpus, rows)]  # who may be anybody: trained on, and never held out
        rest, valid = hold_out(corpus, data.val_fraction, recipe.seed, by="speaker", rows=rows)
        rows = np.concatenate([rest, unknown]) if len(unknown) else rest
    return rows, valid
