"""Features of audio files on disk: one float32 .npy (frames × dim) for each file.

Short files share padded batches; long ones go through in pieces with the encoder's margins and the recurrent state
carried over. Either way the result is what the file gives alone, in one piece.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from cpc.audio import Undecodable, decode, find_audio
from cpc.config import InputError
from cpc.corpus.progress import show_progress
from cpc.distributed import keep_freed_memory
from cpc.files import atomic
from cpc.model import CPC, Latents

PIECE = 60  # seconds: longer files go through in pieces
BATCH = 64  # files decoded together, so that similar lengths meet
LayerName = Literal["z", "c"]
Item = tuple[Path, Float32[np.ndarray, "..."]]  # a file and its samples, or its frames


class Embedded(NamedTuple):
    """Files written, files skipped with their reasons."""

    written: list[Path]
    skipped: list[tuple[Path, str]]


def embed(
    model: CPC, source: str | Path, out: str | Path, layer: LayerName = "c", *, progress: bool = False
) -> Embedded:
    """Write OUT/…/STEM.npy for every audio file of `source` (a file or a folder, whose subfolders are kept).

    A file that cannot be decoded or is too short for one frame is skipped and reported, and nothing else is lost.

    Raises:
        InputError: `source` has no audio, or two files would write the same .npy.
    """
    keep_freed_memory(next(model.parameters()).device)
    files = find_audio(source)
    targets = _targets(files, Path(source), Path(out))
    report = Embedded([], [])
    with show_progress("embed", len(files), model.sample_rate, progress) as bar, ThreadPoolExecutor() as pool:
        for chunk in _chunks(files, BATCH):
            decoded = list(pool.map(lambda path: _decode(path, model), chunk))
            good = [(path, wave) for path, wave in zip(chunk, decoded, strict=True) if isinstance(wave, np.ndarray)]
            for path, frames in _embed_all(model, good, layer):
                with atomic(targets[path]) as file:
                    np.save(file, np.ascontiguousarray(frames))
                report.written.append(targets[path])
            report.skipped.extend((p, w) for p, w in zip(chunk, decoded, strict=True) if isinstance(w, str))
            for wave in decoded:
                bar.tick(0 if isinstance(wave, str) else len(wave))
    return report


@torch.inference_mode()
def latents_of(model: CPC, waveform: Float[Tensor, "sample"], piece: int = PIECE) -> Latents:
    """z (frame, dim) and c (frame, hidden) of one waveform of any length, `piece` seconds at a time.

    A piece of z is computed with enough frames on either side that no frame of it sees the padding of the piece,
    and the context network goes on from the state that the piece before left.
    """
    total, hop = model.frames(len(waveform)), model.hop
    margin = -(-model.receptive_field // hop)  # frames whose receptive field may cross the edge of a piece
    step = max(1, piece * model.sample_rate // hop)
    parts: list[tuple[Tensor, Tensor]] = []
    state: Tensor | None = None
    for start in range(0, total, step):
        stop = min(total, start + step)
        first = max(0, start - margin)
        last = len(waveform) if stop == total else (stop + margin) * hop
        z = model.encoder(waveform[None, first * hop : last])[:, start - first : stop - first]
        c, state = model.context.go_on(z, state)
        parts.append((z[0], c[0]))
    return Latents(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _embed_all(model: CPC, items: Sequence[Item], layer: LayerName) -> Iterator[Item]:
    """Frames of each waveform; those up to PIECE in padded batches of similar length."""
    limit = PIECE * model.sample_rate
    device = next(model.parameters()).device
    short = sorted((item for item in items if len(item[1]) <= limit), key=lambda item: len(item[1]))
    for path, wave in items:
        if len(wave) > limit:
            yield path, getattr(latents_of(model, torch.from_numpy(wave).to(device)), layer).float().cpu().numpy()
    while short:
        size = max(1, limit // len(short[-1][1]))
        batch, short = short[-size:], short[:-size]
        yield from _embed_batch(model, batch, layer, device)


@torch.inference_mode()
def _embed_batch(model: CPC, batch: Sequence[Item], layer: LayerName, device: torch.device) -> list[Item]:
    lengths = [len(wave) for _, wave in batch]
    longest = -(-max(lengths) // 8000) * 8000  # half seconds: few shapes, each planned once
    waves = torch.zeros(len(batch), longest)
    for row, (_, wave) in zip(waves, batch, strict=True):
        row[: len(wave)] = torch.from_numpy(wave)
    frames = getattr(model(waves.to(device), torch.tensor(lengths, device=device)), layer).float().cpu()
    counts = [model.frames(length) for length in lengths]
    return [(path, own[:count].numpy()) for (path, _), own, count in zip(batch, frames, counts, strict=True)]


def _targets(files: Sequence[Path], source: Path, out: Path) -> dict[Path, Path]:
    root = source if source.is_dir() else source.parent
    targets = {path: (out / path.relative_to(root)).with_suffix(".npy") for path in files}
    seen: dict[Path, Path] = {}
    for path, target in targets.items():
        if target in seen:
            raise InputError(f"{path}: would write {target}, as {seen[target]} does; rename one of the two")
        seen[target] = path
    if out.exists() and not out.is_dir():
        raise InputError(f"out={out}: is a file; give a folder")
    return targets


def _decode(path: Path, model: CPC) -> Float32[np.ndarray, "sample"] | str:
    """The waveform, or the reason why there is none."""
    try:
        wave = decode(path, model.sample_rate)
    except Undecodable as error:
        return error.reason
    if model.frames(len(wave)) < 1:
        return f"{len(wave)} samples are too few for one frame of {model.receptive_field}"
    return wave


def _chunks(files: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    for start in range(0, len(files), size):
        yield files[start : start + size]
