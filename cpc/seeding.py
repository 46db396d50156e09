"""Every random choice is a pure function of a seed and of names: nothing to save, nothing to restore.

`generator(7, "negatives", step)` gives the same stream in an uninterrupted run and in one resumed at that step.
"""

import hashlib

import numpy as np
import torch

Name = str | int


def derive(seed: int, *names: Name) -> int:
    """A 63-bit integer that depends on the seed and every name, and on nothing else."""
    text = "\x1f".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(seed: int, *names: Name) -> np.random.Generator:
    """A NumPy generator (counter-based Philox) for these names."""
    return np.random.Generator(np.random.Philox(key=derive(seed, *names)))


def torch_generator(device: torch.device | str, seed: int, *names: Name) -> torch.Generator:
    """A torch generator on `device` for these names."""
    return torch.Generator(device).manual_seed(derive(seed, *names))
