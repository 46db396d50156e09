"""Disk space: what fetching, unpacking and packing will take, compared with what is free, before anything starts."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import typer
from rich.filesize import decimal

from cpc.config import InputError


class Need(NamedTuple):
    """Bytes that one subset will take. `held` are those of its archive that are on the disk already."""

    archive: int = 0
    unpacked: int = 0
    packed: int = 0
    held: int = 0


def peak(needs: Sequence[Need], keep: bool) -> int:
    """The most bytes to be taken at any time, if all archives come first and each subset is then unpacked and packed.

    Without `keep`, an archive goes when it is unpacked.
    """
    used = most = sum(need.archive for need in needs)
    for need in needs:
        used += need.unpacked
        most = max(most, used)
        used += need.packed - (0 if keep else need.archive + need.held)
        most = max(most, used)
    return most


def check_space(out: Path, needs: Sequence[Need], keep: bool) -> None:
    """Say what is needed and what is free. Raises InputError, before anything is written, if it does not fit."""
    needed = peak(needs, keep)
    if not needed:
        return
    columns = ("archives", "unpacked", "packed")
    sums = [sum(column) for column in zip(*needs, strict=True)]
    parts = ", ".join(f"{name} {decimal(amount)}" for name, amount in zip(columns, sums, strict=False) if amount)
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        less = peak(needs, keep=False)
        remedy = f", or --no-keep-archives, which needs {decimal(less)}" if less <= free else ""
        rule = f"needs {decimal(needed)} ({parts}), {decimal(free)} are free"
        raise InputError(f"out={out}: {rule}; name a folder on another disk{remedy}")
    typer.echo(f"{out}: needs about {decimal(needed)} more ({parts}); {decimal(free)} are free")
