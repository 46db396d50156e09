"""How a batch is divided: over micro-batches, one after the other, and within each over processes.

The division never changes what is computed: a batch gives the same losses and gradients, to rounding, on any number
of processes and in any number of micro-batches. What would break this is refused. One thing differs: a transformer's
dropout is drawn by each process for its own share, as drawing it for the whole batch would cost as much on each.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from cpc.config import InputError
from cpc.distributed import World
from cpc.losses.cpc import CPCLossConfig
from cpc.losses.sharding import BatchShard
from cpc.training.recipe import Recipe


class BatchPartition(NamedTuple):
    """A batch of `batch` windows in `micro` equal micro-batches, each in equal parts of neighbouring processes."""

    batch: int
    micro: int
    processes: int = 1
    rank: int = 0

    @property
    def share(self) -> int:
        """Windows of a process in one micro-batch."""
        return self.batch // (self.micro * self.processes)

    def shares(self) -> list[BatchShard]:
        """This process's share of the batch in each micro-batch."""
        parts = self.micro * self.processes
        return [BatchShard(number * self.processes + self.rank, parts) for number in range(self.micro)]

    def windows(self) -> Int[np.ndarray, "window"]:
        """The places in the batch of this process's windows, micro-batch by micro-batch."""
        places = np.arange(self.batch).reshape(self.micro, self.processes, self.share)
        return places[:, self.rank].reshape(-1)


def divide(recipe: Recipe, world: World) -> BatchPartition:
    """The division that a recipe asks for on so many processes.

    Raises:
        InputError: it would change what is computed.
    """
    division = BatchPartition(
        recipe.data.batch_size, recipe.training.gradient_accumulation_steps, world.size, world.rank
    )
    parts = division.micro * division.processes
    if parts == 1:
        return division
    if division.batch % parts:
        above = math.ceil(division.batch / parts) * parts
        raise InputError(
            f"data.batch_size={division.batch}: must be a multiple of {_parts(division)}; give {above}, for example"
        )
    if recipe.model.encoder.norm == "batch":
        raise InputError(
            f"model.encoder.norm=batch: would normalise each of {_parts(division)} by itself, so that results depend "
            "on the division; use norm=channel, or one process and training.gradient_accumulation_steps=1"
        )
    if isinstance(recipe.loss, CPCLossConfig):
        _check_groups(recipe.loss, division)
    elif division.micro > 1:
        rule = "this loss contrasts the whole batch at once; give 1, or a smaller data.batch_size and a loss.queue"
        raise InputError(f"training.gradient_accumulation_steps={division.micro}: {rule}")
    return division


def _check_groups(loss: CPCLossConfig, division: BatchPartition) -> None:
    """Groups must be equal, and each inside one share, or gathered from whole shares of neighbouring processes."""
    batch, share, groups = division.batch, division.share, math.ceil(division.batch / loss.group_size)
    size, left = divmod(batch, groups)
    spans = not left and size % share == 0 and division.processes % (size // share) == 0
    if (not left and share % size == 0) or (spans and loss.gather_distributed):
        return
    fits = max(d for d in range(1, min(share, loss.group_size) + 1) if share % d == 0)
    raise InputError(
        f"loss.group_size={loss.group_size}: groups of sequences that are scored together would be cut, because "
        f"{_parts(division)} leave {share} of {batch} windows each; set "
        f"{'loss.gather_distributed=true or ' if spans else ''}loss.group_size={fits}, or enlarge data.batch_size"
    )


def _parts(division: BatchPartition) -> str:
    """Over what a batch is divided, in words."""
    words = [f"{division.processes} processes"] if division.processes > 1 else []
    words += [f"{division.micro} micro-batches (training.gradient_accumulation_steps)"] if division.micro > 1 else []
    return " × ".join(words)
