"""What is computed on, and how exactly: the device, what it is called and can do, and the precision of numbers."""

import ctypes
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cpc.config import InputError

Precision = Literal["auto", "fp32", "tf32", "bf16"]


def device(name: str = "auto") -> torch.device:
    """`auto` takes the GPU when there is one.

    Raises:
        InputError: a device that torch does not know or that this machine lacks.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise InputError(f"device={name}: not a device; give auto, cpu, cuda or cuda:N") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device={name}: torch sees no GPU here; give auto or cpu")
    return chosen


def device_name(chosen: torch.device) -> str:
    """What a person would call it: the GPU's model, or the processor's."""
    if chosen.type == "cuda":
        return torch.cuda.get_device_name(chosen)
    models = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {torch.get_num_threads()} threads"


def busy_cores(seconds: float = 0.2) -> float:
    """How many of the cores that this process may use are at work while it waits for so long: other programs' share.

    0 where the system does not say (only Linux does, in /proc/stat).
    """
    before = _core_times()
    time.sleep(seconds if before else 0)
    after = _core_times()
    busy = 0.0
    for core in before.keys() & after.keys():
        worked, waited = (late - early for early, late in zip(before[core], after[core], strict=True))
        busy += worked / max(worked + waited, 1)
    return busy


def _core_times() -> dict[int, tuple[int, int]]:
    """Ticks that each core of this process has worked and idled."""
    path, found = Path("/proc/stat"), {}
    own = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    for line in path.read_text().splitlines() if path.exists() else []:
        name, *ticks = line.split()
        if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in own:
            times = [int(tick) for tick in ticks[:8]]  # user, nice, system, idle, iowait, …
            found[int(name[3:])] = (sum(times) - times[3] - times[4], times[3] + times[4])
    return found


def threads_hint() -> str:
    """What to say before work on a CPU where other programs hold cores that our threads would wait for; often nothing.

    Threads wait for the slowest of them: beside a neighbour on one of two cores a step on two threads takes 1.6 to 2.5
    times as long as on one (benchmarks/neighbour.py). How many threads there are changes rounding, so it is the user
    who decides.
    """
    threads, cores = torch.get_num_threads(), len(_core_times())
    busy = round(busy_cores())
    free = max(1, cores - busy)
    if not busy or threads <= free:
        return ""
    return (
        f"other programs take {busy} of {cores} cores: {threads} threads wait for each other, and "
        f"OMP_NUM_THREADS={free} would be faster"
    )


def has_bf16(chosen: torch.device) -> bool:
    """True where bfloat16 matrix products are done in hardware, and so pay."""
    if chosen.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = next((line for line in _cpuinfo() if line.startswith("flags")), "").split()
    return "avx512_bf16" in flags or "amx_bf16" in flags


def keep_freed_memory(chosen: torch.device) -> None:
    """On a CPU with glibc, let malloc keep the memory of large tensors that are freed, for the next ones.

    By default every tensor above 32 MB at most comes from a fresh mapping and goes back to the system, and the page
    faults cost as much as the convolutions: keeping it makes float32 inference about 2 × and training 1.3 × faster
    (`benchmarks/allocator.py` measures it). Threads have heaps of their own, which would still give their memory back:
    they share one. The process holds on to its peak instead, to its end, which no library call should decide: the
    command line calls this where it starts, and a program of your own may.
    """
    if chosen.type == "cpu" and platform.libc_ver()[0] == "glibc":
        with suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(-4, 0)  # M_MMAP_MAX: no mappings of their own for large blocks
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: do not give the end of the heap back
            libc.mallopt(-8, 1)  # M_ARENA_MAX: threads share the heap that keeps, theirs would not


def precision(choice: Precision, chosen: torch.device) -> Literal["fp32", "tf32", "bf16"]:
    """`auto` is bf16 where the hardware does it, fp32 elsewhere; tf32 is float32 with TensorFloat-32 products.

    Raises:
        InputError: tf32 on a CPU.
    """
    if choice == "auto":
        return "bf16" if has_bf16(chosen) else "fp32"
    if choice == "tf32" and chosen.type != "cuda":
        raise InputError(f"precision=tf32: only GPUs have it, not {chosen.type}; give fp32 or bf16")
    return choice


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Within, float32 products and convolutions on GPUs may round their factors to 10 bits (TensorFloat-32), or not."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    try:
        products.allow_tf32 = convolutions.allow_tf32 = allowed
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def upcast(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """In float32 at least: half precision is good enough for products, sums of exponentials want more."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(errors="replace").splitlines() if path.exists() else []
