"""Checkpoints: one .safetensors file with everything that the next step depends on, written atomically.

Tensors are named `model.*`, `loss.*` and `optim.PARAMETER.STATE`; the settings, the step and the versions are JSON in
the file's header. Random choices are pure functions of (seed, step), so the step is all there is to restore of them.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cpc.config import InputError, dump, flatten, upgrade, validate
from cpc.io import atomic_path
from cpc.models.cpc import CPC, ModelConfig
from cpc.version import versions

FORMAT = 1
CHECKPOINTS = ("last.safetensors", "best.safetensors")


def load(path: str | Path, device: str | torch.device = "cpu") -> CPC:
    """The model of a checkpoint or of a run folder (its last checkpoint), ready for inference.

    Everything comes from one .safetensors file, weights and settings, so no code is ever run.

    Args:
        path: a run folder, or a .safetensors checkpoint.
        device: where the weights go, such as "cuda".

    Returns:
        the model, in evaluation mode.

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
    path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer | None, header: Mapping[str, Any]
) -> None:
    """Write modules, optimizer state (if any) and header to `path`, whole or not at all. Raises DiskFull."""
    tensors = _optimizer_tensors(modules, optimizer) if optimizer else {}
    for prefix, module in modules.items():
        tensors |= {f"{prefix}.{name}": t for name, t in module.state_dict().items()}
    metadata = {"cpc": json.dumps({"format": FORMAT, **header, "versions": versions()})}
    write_tensors(path, tensors, metadata)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a .safetensors file, whole or not at all. Raises DiskFull."""
    with atomic_path(path) as temporary:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary, metadata)
        temporary.chmod(0o644)  # safetensors writes for its owner alone; a group shares its runs


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


# --- Weights that training starts from.


def initialise(path: str | Path, model: CPC, criterion: nn.Module) -> str:
    """Put the weights of a run, a checkpoint or a file of CPC_audio's format into a model, and heads into its loss.

    Args:
        path: a run folder, a .safetensors checkpoint, or a .pt file that `cpc convert` reads.
        model: takes all of its weights.
        criterion: takes the file's where every name and shape is the same, and both align their predictions or neither.

    Returns:
        what was taken, in words.

    Raises:
        InputError: no such file, or a model of other settings, which are named.
    """
    if Path(path).suffix in (".pt", ".pth", ".ckpt"):
        from cpc.models.convert import read_foreign

        found = read_foreign(Path(path))
        config, weights, heads, aligned = found.config, found.weights, found.head_weights, None
    else:
        header, tensors = read_checkpoint(checkpoint_file(path))
        config = validate(ModelConfig, header["config"]["model"])
        weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        heads = {k.removeprefix("loss."): v for k, v in tensors.items() if k.startswith("loss.")}
        aligned = (header["config"].get("loss") or {}).get("aligned_predictions")
    theirs, ours = (flatten(dump(replace(each, init=None))) for each in (config, model.config))
    if theirs != ours:
        keys = sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key))
        said = "; ".join(f"model.{key} is {theirs.get(key)} there and {ours.get(key)} here" for key in keys[:4])
        raise InputError(f"model.init={path}: {said}; take its settings, for example with base: in the recipe")
    model.load_state_dict(weights)
    own = criterion.state_dict()
    if aligned != getattr(criterion, "aligned_predictions", None):
        return f"weights of {path}; new heads"  # the m-th of aligned predictions is not the one of frame t + m
    if heads and heads.keys() == own.keys() and all(heads[name].shape == own[name].shape for name in own):
        criterion.load_state_dict(heads)
        return f"weights and heads of {path}"
    return f"weights of {path}; new heads"
