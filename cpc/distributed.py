"""A process's place among the processes that train together, and what they tell each other.

Under `torchrun` there are several processes (PyTorch's DistributedDataParallel: gloo on CPUs, NCCL on GPUs);
without it there is one, and everything here does nothing. Numbers on the CPU always travel by gloo, so that asking
the other processes something never waits for a GPU.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from cpc.config import InputError
from cpc.device import device

T = TypeVar("T")
BACKEND = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}  # numbers on the CPU travel by gloo


@dataclass(frozen=True)
class World:
    """The processes that train together, as one of them sees them: its device, its rank from 0, and their number."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes, tracks and speaks."""
        return self.rank == 0

    def agreed(self, decide: Callable[[], T]) -> T:
        """What the first process decides, or the error that it raises, for all of them."""
        if self.size == 1:
            return decide()
        answer: list[Any] = [None, None]
        if self.first:
            try:
                answer[0] = decide()
            except Exception as error:  # raised below, by every process
                answer[1] = error
        dist.broadcast_object_list(answer, src=0, device=torch.device("cpu"))
        if answer[1] is not None:
            raise answer[1]
        decided: T = answer[0]
        return decided

    def mean(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The mean over processes; nothing is differentiated."""
        if self.size == 1:
            return x
        total = x.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type by their means over processes, in one exchange."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors]).div_(self.size)  # in DDP's order
        dist.all_reduce(flat)
        means = [
            part.view_as(tensor)
            for part, tensor in zip(torch.split(flat, [t.numel() for t in tensors]), tensors, strict=True)
        ]
        torch._foreach_copy_([tensor.detach() for tensor in tensors], means)


class Vote:
    """Whether any process was asked to stop: all learn it at the same step, one step late, and nobody waits for it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._before: tuple[Tensor, dist.Work | None] | None = None

    def cast(self, asked: bool) -> bool:
        """Say what this process wants, once a step; true where all are to stop after this step."""
        if self._world.size == 1:
            return asked
        before, ballot = self._before, torch.tensor([asked], dtype=torch.int32)
        self._before = ballot, dist.all_reduce(ballot, dist.ReduceOp.MAX, async_op=True)
        if before is None:
            return False
        counted, work = before
        if work is not None:
            work.wait()
        return bool(counted.item())


@contextmanager
def start(device_name: str = "auto") -> Iterator[World]:
    """Join the processes that torchrun or Ray Train started, each on a device of its own; else, a world of one.

    Raises:
        InputError: a device that is not there, or that the processes would have to share.
        ConnectionError: another process of the world has ended, so that this one cannot go on.
    """
    rank, size = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if size == 1 or "RANK" not in os.environ:  # some clusters set WORLD_SIZE alone
        yield World(device(device_name))
        return
    own = _local_device(device_name, int(os.environ.get("LOCAL_RANK", rank)))
    joined = dist.is_initialized()  # by Ray Train, which ends it too
    if not joined:
        dist.init_process_group(BACKEND[own.type], store=_store(), rank=rank, world_size=size)
    try:
        yield World(own, rank, size)
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            line = str(error).splitlines()[0]
            reason = line.partition("] ")[2] or line  # what comes before is a place in torch's source
            raise ConnectionError(f"another process of this run has ended ({reason})") from error
        raise
    finally:
        _neighbours.cache_clear()
        if not joined:
            dist.destroy_process_group()


def _store() -> Store:
    """Where the processes find each other's addresses, and never those of processes that have ended.

    torchrun may keep its store when it starts processes again. On one machine every start has names of its own in it;
    over several, whose counts of restarts may differ, torchrun needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 instead.
    """
    store: Store = next(rendezvous("env://"))[0]
    one_machine = os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
    return PrefixStore(f"start-{restarts() if one_machine else 0}", store)


def restarts() -> int:
    """How often torchrun has started this process's world again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def gather(x: Shaped[Tensor, "batch *rest"], span: int) -> Shaped[Tensor, "all *rest"]:
    """The tensors of `span` neighbouring processes (ranks 0 … span − 1, then the next ones), in order of rank.

    The gradient flows back to the process that each part came from, as the sum over the processes that used it:
    processes that average their parameters' gradients then have that of the mean of their losses.
    """
    gathered: Tensor = _Gather.apply(x, span)  # type: ignore[no-untyped-call]
    return gathered


def gather_all(x: Shaped[Tensor, "batch *rest"]) -> Shaped[Tensor, "all *rest"]:
    """The tensors of all processes, in order of rank, with gradient as in `gather`; in a world of one, the tensor."""
    return gather(x, dist.get_world_size()) if dist.is_initialized() else x


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, span: int) -> Tensor:
        ctx.span = span
        gathered = x.new_empty(span * len(x), *x.shape[1:])
        dist.all_gather_into_tensor(gathered, x.contiguous(), group=_neighbours(span))
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        own = gradient.new_empty(len(gradient) // ctx.span, *gradient.shape[1:])
        dist.reduce_scatter_tensor(own, gradient.contiguous(), group=_neighbours(ctx.span))
        return own, None


@cache
def _neighbours(span: int) -> dist.ProcessGroup:
    """This process's group of `span` consecutive ranks; every process must ask for it."""
    group: dist.ProcessGroup = dist.new_subgroups(span)[0]  # type: ignore[no-untyped-call]
    return group


def _local_device(name: str, local_rank: int) -> torch.device:
    chosen = device(name)
    if chosen.type != "cuda":
        return chosen
    if chosen.index is not None:
        raise InputError(f"training.device={name}: torchrun's processes need a GPU each; give auto or cuda")
    if local_rank >= torch.cuda.device_count():
        raise InputError(
            f"training.device={name}: process {local_rank + 1} on this machine finds {torch.cuda.device_count()} GPUs; "
            "start as many processes as there are GPUs (--nproc-per-node), or set training.device=cpu"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
