"""The least time that work can take on this machine: its operations over the rate of matrix products, or the bytes that
it has to move over the bandwidth of memory, whichever is longer. Both rates are measured in the run that quotes them.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from cpc.models.cpc import CPC

COPIED = 1 << 28  # bytes: far more than caches hold


def wait(device: torch.device) -> None:
    """Until the device is idle."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, the device idle before and after."""
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def fastest(work: Callable[[], object], device: torch.device, long: float = 2.0) -> float:
    """The least seconds of as many calls as fill `long`: what a busy host adds is never negative."""
    best, until = seconds(work, device), time.perf_counter() + long
    while time.perf_counter() < until:
        best = min(best, seconds(work, device))
    return best


def settled(work: Callable[[], object], device: torch.device, least: float = 1.0) -> float:
    """The median seconds of as many calls as fill `least` seconds: a single short one says little on a busy host."""
    taken = [seconds(work, device)]
    while sum(taken) < least:
        taken.append(seconds(work, device))
    return statistics.median(taken)


def in_turns(works: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """The least seconds of each over rounds in which they take turns; the first round warms up."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        for name, work in works.items():
            found = seconds(work, device)
            if number:
                taken[name].append(found)
    return {name: min(values) for name, values in taken.items()}


@dataclass(frozen=True)
class Machine:
    """`rate`: operations a second of a matrix product, by precision; `bandwidth`: bytes a second read and written."""

    rate: dict[str, float]
    bandwidth: float

    @classmethod
    def measure(cls, device: torch.device, bf16: bool) -> "Machine":
        """The best of several products of the shape of the second convolution, and of several copies."""
        kinds = {"fp32": torch.float32} | ({"bf16": torch.bfloat16} if bf16 else {})
        rate = {name: _rate(4096 if device.type == "cpu" else 1 << 17, kind, device) for name, kind in kinds.items()}
        source = torch.ones(COPIED // 4, device=device)
        target = torch.empty_like(source)
        return cls(rate, 2 * COPIED / fastest(lambda: target.copy_(source), device))

    def floor(self, operations: float, moved: float, precision: str) -> float:
        """Seconds below which nothing can go."""
        return max(operations / self.rate[precision], moved / self.bandwidth)

    def __str__(self) -> str:
        rates = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {name}" for name, rate in self.rate.items())
        return f"matrix products {rates}; memory {self.bandwidth / 1e9:.1f} GB/s"


def _rate(rows: int, kind: torch.dtype, device: torch.device) -> float:
    """Operations a second, as a product or as a convolution: on some processors one library has twice the other's."""
    windows = torch.randn(rows, 2048, device=device, dtype=kind)
    weights = torch.randn(2048, 256, device=device, dtype=kind)
    x = torch.randn(8, 256, 1, rows // 2 + 4, device=device, dtype=kind).to(memory_format=torch.channels_last)
    kernels = torch.randn(256, 256, 1, 8, device=device, dtype=kind)
    works = (lambda: windows @ weights, lambda: torch.conv2d(x, kernels, stride=(1, 4)))
    return 2 * rows * 2048 * 256 / min(fastest(work, device) for work in works)


def encoder_operations(model: CPC, frames: int) -> float:
    """Multiplications and additions of the convolutions for so many frames of z, forward."""
    config = model.encoder.config
    total, channels = 0.0, 1
    outputs = frames
    sizes = []
    for kernel, stride in reversed(list(zip(config.kernels, config.strides, strict=True))):
        sizes.append((outputs, kernel))
        outputs = (outputs - 1) * stride + kernel
    for (count, kernel), width in zip(reversed(sizes), config.widths, strict=True):
        total += 2.0 * count * kernel * channels * width
        channels = width
    return total


def context_operations(model: CPC, frames: int) -> float:
    """Those of one layer of a GRU for so many frames, forward."""
    return 2.0 * frames * 3 * model.hidden * (model.dim + model.hidden)


def encoder_bytes(model: CPC, samples: int, width: int) -> float:
    """Bytes that the encoder reads and writes for one waveform, forward: what each layer is given and gives, once, and
    again for a norm; `width` a number. Weights are few beside them."""
    config, total, given = model.encoder.config, 0.0, float(samples)
    passes = 1 if config.norm == "none" else 3
    for kernel, stride, padding in zip(config.kernels, config.strides, config.padding, strict=True):
        samples = (samples + 2 * padding - kernel) // stride + 1
        total += given + passes * samples * model.dim
        given = float(samples * model.dim)
    return total * width
