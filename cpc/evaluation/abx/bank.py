"""Where the frames come from: features of a corpus's utterances, or a folder of arrays, found by name of file."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64

from cpc.config import InputError
from cpc.corpus import Corpus
from cpc.evaluation.abx.items import Items
from cpc.evaluation.abx.slicing import Slicing, slice_frames
from cpc.evaluation.features import Features, FrameTable, Layer, extract, extract_features

Rows = Int64[np.ndarray, " utterance"]


@dataclass(frozen=True)
class Bank:
    """The frames of named utterances, and the times of their centres (seconds) by the number of frames."""

    name: str
    table: FrameTable
    places: Mapping[str, int]
    centres: Callable[[int], Float64[np.ndarray, " frame"]]

    def slice(
        self, items: Items, slicing: Slicing = "centre"
    ) -> tuple[Int64[np.ndarray, " item"], Int64[np.ndarray, " item"]]:
        """First row in the table, and number of frames, of each item; some may have none.

        Raises InputError for items of files that are not in the bank.
        """
        files, which = np.unique(items.files, return_inverse=True)
        if missing := [file for file in files.tolist() if file not in self.places]:
            rule = f"{len(missing)} of {len(files)} files have no features, for example {', '.join(missing[:3])}"
            raise InputError(f"items: {rule}; add them to {self.name} or leave their items out")
        starts, counts = np.empty(len(items), np.int64), np.empty(len(items), np.int64)
        order = np.argsort(which, kind="stable")
        for members in np.split(order, np.cumsum(np.bincount(which))[:-1]):
            place = self.places[str(items.files[members[0]])]
            centres = self.centres(int(self.table.counts[place]) + 1)
            inside = slice_frames(items.onsets[members], items.offsets[members], centres, slicing)
            starts[members], counts[members] = self.table.offsets[place] + inside[0], inside[1]
        return starts, counts


def corpus_banks(
    group: Sequence[Features], corpus: Corpus, rows: Rows, *, device: str = "cpu", progress: bool = False
) -> list[Bank]:
    """Features of some rows of a corpus; the layers of one model come out of one pass over the audio."""
    layers = [each for each in group if isinstance(each, Layer)]
    first = group[0]
    if isinstance(first, Layer) and len(layers) == len(group):
        names = [each.layer for each in layers]
        found = extract(first.model, corpus, rows, names, progress=progress, name=first.origin)
        tables = [found[name] for name in names]
    else:
        tables = [extract_features(each, corpus, rows, device=device, progress=progress) for each in group]
    places = {corpus.ids[row]: place for place, row in enumerate(rows.tolist())}
    return [Bank(each.name, table, places, each.frame_centres) for each, table in zip(group, tables, strict=True)]


def folder_bank(folder: Path, files: Iterable[str], hop: float, first_centre: float | None = None) -> Bank:
    """Arrays FILE.npy (frames × dim) anywhere in `folder`, as `cpc embed` writes them.

    A file is named by its path in the folder without .npy, or by its last part where that is unambiguous. Frame i is
    centred at first_centre + i · hop seconds; without `first_centre`, in the middle of its hop.
    Raises InputError for missing or ambiguous files and for arrays that are not frames × dim.
    """
    if not hop > 0:
        raise InputError(f"hop={hop}: must be the seconds from one frame to the next, for example 0.01")
    found = _index(folder)
    names = sorted(set(files))
    if missing := [name for name in names if name not in found]:
        rule = f"{len(missing)} of {len(names)} files have no .npy, for example {', '.join(missing[:3])}"
        raise InputError(f"features={folder}: {rule}")
    arrays = [_read(found[name], name) for name in names]
    if len(dims := {array.shape[1] for array in arrays}) != 1:
        raise InputError(f"features={folder}: the arrays have different dimensions {sorted(dims)}; extract them alike")
    offsets = np.concatenate([[0], np.cumsum([len(array) for array in arrays])])
    table = FrameTable(torch.from_numpy(np.concatenate(arrays)), offsets)
    start = hop / 2 if first_centre is None else first_centre
    return Bank(str(folder), table, {name: i for i, name in enumerate(names)}, lambda n: start + hop * np.arange(n))


def _index(folder: Path) -> dict[str, Path | None]:
    """Files by their path and by their last part; None for a last part that several have."""
    paths = sorted(folder.rglob("*.npy"))
    if not paths:
        raise InputError(f"features={folder}: holds no .npy; write them with cpc embed")
    found: dict[str, Path | None] = {}
    for path in paths:
        found[path.stem] = None if path.stem in found else path
    return found | {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def _read(path: Path | None, name: str) -> Float32[np.ndarray, "frame dim"]:
    if path is None:
        raise InputError(f"features: several files are called {name}.npy; name them by their path in the .item file")
    try:
        array: np.ndarray = np.load(path)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: not an array of NumPy ({error}); write it with cpc embed") from None
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"{path}: has shape {array.shape} and type {array.dtype}; must be frames × dim, floating")
    return array.astype(np.float32)
