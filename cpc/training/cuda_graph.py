"""Fewer launches: forward and backward as one CUDA graph, and an encoder that torch.compile fuses.

A small batch waits for the launch of hundreds of kernels otherwise. Which of the two a run takes is decided here.
"""

import importlib.util
import shutil
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import nn

from cpc.config import InputError
from cpc.distributed import World
from cpc.losses.cpc import CPCLossConfig, Losses
from cpc.training.network import Batch
from cpc.training.recipe import Recipe

WARM_UP = 3  # steps on a stream of their own, in which libraries choose their kernels and allocate their workspaces
WORTH_COMPILING = 1000  # hours of windows: an H200 saved 4.6 ms a step of 256 windows, a minute in 1,200 hours


class Graph:
    """Batches of one shape → their losses, with the gradients in the parameters.

    `work` computes both. What it draws, it draws from `generators`, which may be seeded anew before every call: a
    replay draws the numbers that `work` itself would. The first calls are plain ones; they count as any other. Where
    nothing can be captured, the calls stay plain ones and a warning says why, or the error is raised if `required`.
    """

    def __init__(
        self,
        work: Callable[[Batch], Losses],
        parameters: Sequence[nn.Parameter],
        generators: Sequence[torch.Generator],
        required: bool = False,
    ) -> None:
        self._work, self._parameters, self._generators = work, parameters, generators
        self._required = required
        self._graph: torch.cuda.CUDAGraph | None = None
        self._calls, self._refused = 0, False

    def __call__(self, batch: Batch) -> Losses:
        self._calls += 1
        if self._refused:
            return self._work(batch)
        if self._calls <= WARM_UP:
            return self._beside(batch)
        if self._graph is None:
            try:
                self._graph = self._captured(batch)
            except RuntimeError as error:  # of memory, or of a kernel that cannot be captured
                if self._required:
                    raise
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                warnings.warn(f"plain launches, not a CUDA graph: {reason}", stacklevel=2)
                self._refused = True
                for parameter in self._parameters:
                    parameter.grad = None
                return self._work(batch)
        for own, given in zip(self._batch[:2], batch[:2], strict=True):
            if own is not None and given is not None:
                own.copy_(given)
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return _copy(self._losses)

    def _beside(self, batch: Batch) -> Losses:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            losses = self._work(batch)
        torch.cuda.current_stream().wait_stream(stream)
        return losses

    def _captured(self, batch: Batch) -> torch.cuda.CUDAGraph:
        """The graph, with its own batch, losses and gradients, which every replay writes again."""
        past, future, labels = batch
        self._batch = Batch(past.clone(), None if future is None else future.clone(), labels)
        for parameter in self._parameters:
            parameter.grad = None  # so that the graph sets gradients and does not add to them
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # another thread brings the next batch
            self._losses = self._work(self._batch)
        self._gradients = [parameter.grad for parameter in self._parameters]
        return graph


def uses_graph(recipe: Recipe, world: World) -> bool:
    """Whether a run is launched as a CUDA graph: as its recipe says, or with `auto` wherever it can be.

    Raises:
        InputError: `true` where there can be none.
    """
    asked, reason = recipe.training.cuda_graph, graph_obstacle(recipe, world)
    if asked is True and reason:
        raise InputError(f"training.cuda_graph=true: {reason}; give auto or false")
    return asked is True or (asked == "auto" and not reason)


def graph_obstacle(recipe: Recipe, world: World) -> str:
    """Why a run cannot be a CUDA graph, in words; empty where it can."""
    loss, asked = recipe.loss, recipe.training.cuda_graph
    if world.device.type != "cuda":
        return f"only GPUs have CUDA graphs, not {world.device.type}"
    if not isinstance(loss, CPCLossConfig):
        return "loss.kind=cpc is what a graph can repeat"
    if world.size > 1 and loss.gather_distributed:
        return "loss.gather_distributed has processes exchange frames between kernels, which a graph cannot hold"
    if asked == "auto" and "transformer" in (recipe.model.context.kind, loss.heads.kind):
        what = "a transformer's dropout"
        return f"{what} as a graph has not been compared with plain launches yet; true makes one all the same"
    return ""


def compiles(recipe: Recipe, world: World) -> bool:
    """Whether the encoder goes through torch.compile: as the recipe says, or with `auto` where it can and repays it."""
    asked = recipe.training.compile
    return asked is True or (asked == "auto" and not compile_obstacle(recipe, world))


def compile_obstacle(recipe: Recipe, world: World) -> str:
    """Why a run with `training.compile=auto` does not compile its encoder, in words; empty where it does."""
    if world.device.type != "cuda":
        return f"compiling repays itself on GPUs, not on {world.device.type}"
    windows = recipe.training.max_steps * recipe.data.batch_size
    hours = windows * recipe.data.window_size / recipe.model.sample_rate / 3600
    if hours < WORTH_COMPILING:
        return f"{hours:,.0f} hours of windows are trained on, and compiling repays itself from {WORTH_COMPILING:,} on"
    missing = {
        "the package triton is not installed": importlib.util.find_spec("triton") is None,
        "there is no C compiler (cc, gcc or clang)": not any(map(shutil.which, ("cc", "gcc", "clang"))),
        "the GPU is older than compute capability 7.0": torch.cuda.is_available()
        and torch.cuda.get_device_capability(world.device) < (7, 0),
    }
    return next((reason for reason, holds in missing.items() if holds), "")


def _copy(losses: Losses) -> Losses:
    """The same numbers in memory that no replay writes to."""
    loss, per_step, accuracy, bound = (part.clone() for part in losses[:4])
    kinds = None if losses.kinds is None else losses.kinds.clone()
    return losses._replace(loss=loss, per_step=per_step, accuracy=accuracy, bound=bound, kinds=kinds)
