"""torch.hub: `torch.hub.load("CHECKOUT", "cpc", source="local", path="runs/first")` gives the model of a run."""

dependencies = ["torch", "einops", "jaxtyping", "pydantic", "safetensors", "yaml"]


def cpc(path: str, device: str = "cpu"):  # type: ignore[no-untyped-def] # torch.hub imports this file by itself
    """The model of a run folder or a checkpoint: waveform (batch, sample) → z, c (batch, frame, dim)."""
    from cpc import load

    return load(path, device)
