"""Checkpoints: one .safetensors file with everything that the next step depends on, written atomically.

Tensors are named `model.*`, `loss.*` and `optim.PARAMETER.STATE`; the settings, the step and the versions are JSON in
the file's header. Random choices are pure functions of (seed, step), so the step is all there is to restore of them.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cpc.config import InputError, upgrade, validate
from cpc.io import room_for
from cpc.models.cpc import CPC, ModelConfig
from cpc.version import versions

FORMAT = 1
CHECKPOINTS = ("last.safetensors", "best.safetensors")


def load(path: str | Path, device: str | torch.device = "cpu") -> CPC:
    """The model of a checkpoint or of a run folder (its last checkpoint), ready for inference.

    Everything comes from one .safetensors file, weights and settings, so no code is ever run.

    Raises:
        InputError: there is no checkpoint at `path`, or the file is not one of ours.
    """
    file = checkpoint_file(path)
    header, tensors = read_checkpoint(file)
    model = CPC(validate(ModelConfig, header["config"]["model"]))
    weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"{file}: its weights do not fit its settings: {str(error).splitlines()[-1].strip()}"
        ) from None
    return model.to(device).eval()


def checkpoint_file(path: str | Path) -> Path:
    """The checkpoint that a file name or a run folder stands for."""
    path = Path(path)
    if path.is_file():
        return path
    found = next((path / name for name in CHECKPOINTS if (path / name).is_file()), None)
    if found is None:
        rule = "holds no checkpoint yet" if path.is_dir() else "no such file or folder"
        raise InputError(f"{path}: {rule}; give a run folder (runs/NAME) or a .safetensors checkpoint of cpc train")
    return found


def read_checkpoint(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header (settings, step, …) and every tensor of a checkpoint, on the CPU."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
        header: dict[str, Any] = json.loads(metadata["cpc"])
    except (SafetensorError, KeyError, json.JSONDecodeError, OSError) as error:
        reason = "no cpc header" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{file}: not a checkpoint of cpc train ({reason}); give last.safetensors of a run") from None
    if header.get("config"):
        header["config"] = upgrade(header["config"])
    return header, tensors


def save(
    path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, header: Mapping[str, Any]
) -> None:
    """Write modules, optimizer state and header to `path`, whole or not at all. Raises DiskFull."""
    tensors = _optimizer_tensors(modules, optimizer)
    for prefix, module in modules.items():
        tensors |= {f"{prefix}.{name}": t for name, t in module.state_dict().items()}
    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    metadata = {"cpc": json.dumps({"format": FORMAT, **header, "versions": versions()})}
    partial = path.with_name(path.name + ".partial")
    with room_for(path):
        try:
            save_file(tensors, partial, metadata)
            partial.chmod(0o644)  # safetensors writes for its owner alone; a group shares its runs
            with partial.open("rb") as written:
                os.fsync(written.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors that `save` wrote.

    Raises:
        InputError: the file is damaged, or of a newer format.
    """
    header, tensors = read_checkpoint(path)
    if header.get("format", 0) > FORMAT:
        raise InputError(
            f"{path}: format {header['format']} is newer than this version reads ({FORMAT}); upgrade cpc-audio"
        )
    return header, tensors


def restore(
    checkpoint: tuple[dict[str, Any], dict[str, Tensor]],
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
) -> dict[str, Any]:
    """Load what `read` gave into the modules and the optimizer; gives back the header."""
    header, tensors = checkpoint
    for prefix, module in modules.items():
        own = {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}
        module.load_state_dict(own)
    _restore_optimizer(modules, optimizer, tensors)
    return header


def _named(modules: Mapping[str, nn.Module]) -> list[tuple[str, Tensor]]:
    return [(f"{prefix}.{name}", p) for prefix, m in modules.items() for name, p in m.named_parameters()]


def _optimizer_tensors(modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"optim.{name}.{key}": value
        for name, parameter in _named(modules)
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _restore_optimizer(
    modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    """Put each parameter's state back where it lives; the step counter of a fused optimizer stays beside it."""
    for name, parameter in _named(modules):
        prefix = f"optim.{name}."
        state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if state:
            optimizer.state[parameter] = {k: v.to(parameter.device) for k, v in state.items()}
