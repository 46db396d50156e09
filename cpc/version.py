"""What computed a number: the versions that a checkpoint and a run carry."""

import platform
import subprocess

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """cpc, torch and Python."""
    import torch

    return {"cpc": __version__, "torch": torch.__version__, "python": platform.python_version()}


def git_commit() -> str:
    """The commit of the folder that the command runs in, or `unknown`."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"
