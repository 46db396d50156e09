"""What the pictures show: phones as points with their speakers, and which phone a classifier takes for which."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from cpc.config import InputError
from cpc.corpus.corpus import Corpus
from cpc.corpus.splits import has_speaker
from cpc.evaluation.classifier import Fitting, fit
from cpc.evaluation.features import extract
from cpc.evaluation.phones import silent_classes
from cpc.model import CPC
from cpc.seeding import numpy_generator

Rows = Int64[np.ndarray, " _"]
_SHORTEST = 0.03  # seconds: the middle of a shorter phone is no longer its own
_L2 = 1e-4  # of the classifier: the picture asks for confusions, not for the last tenth of a percent


class Points(NamedTuple):
    """One frame of c for each phone (its middle) or, without labels, frames half a second apart."""

    vectors: Float32[Tensor, "point dim"]
    phones: list[str] | None
    speakers: list[str]


def few(rows: Rows, most: int) -> Rows:
    """At most so many rows, evenly spaced."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(np.int64))]


def by_speakers(corpus: Corpus, rows: Rows, speakers: int, most: int) -> Rows:
    """Rows of the speakers with the most audio among them, about equally many of each, at most so many in all."""
    if (known := has_speaker(corpus, rows)).any():
        rows = rows[known]
    names = np.array([corpus.speakers[row] for row in rows.tolist()])
    seconds = {name: int(corpus.samples[rows[names == name]].sum()) for name in sorted(set(names.tolist()))}
    chosen = sorted(seconds, key=lambda name: -seconds[name])[:speakers]
    return np.concatenate([few(rows[names == name], max(1, most // len(chosen))) for name in sorted(chosen)])


def points(model: CPC, corpus: Corpus, rows: Rows, most: int = 2000, labels: str = "phones", seed: int = 0) -> Points:
    """Frames of c for a map, at most so many, drawn evenly from the speakers; silence is left out."""
    table = extract(model, corpus, rows, ("c",))["c"]
    alignment = corpus.labels(labels) if has_labels(corpus, labels) else None
    quiet = set(silent_classes(alignment.inventory, alignment.silences)) if alignment else set()
    found: list[tuple[int, str, str]] = []
    for i, row in enumerate(rows.tolist()):
        centres, speaker, id = model.frame_centres(int(table.counts[i])), corpus.speakers[row], corpus.ids[row]
        if alignment is None:
            found += [(int(table.offsets[i]) + t, "", speaker) for t in range(25, len(centres), 50)]
            continue
        if id not in alignment or not len(centres):
            continue
        _, onsets, offsets, phones = alignment.intervals(id)
        for onset, offset, phone in zip(onsets, offsets, phones, strict=True):
            name = alignment.inventory[int(phone)]
            if offset - onset >= _SHORTEST and phone not in quiet and offset <= centres[-1]:
                frame = int(np.abs(centres - (onset + offset) / 2).argmin())
                found.append((int(table.offsets[i]) + frame, name, speaker))
    kept = _balanced([speaker for _, _, speaker in found], most, seed)
    names = None if alignment is None else [found[k][1] for k in kept]
    frames = table.frames[torch.tensor([found[k][0] for k in kept], dtype=torch.int64)]
    return Points(frames, names, [found[k][2] for k in kept])


def _balanced(speakers: Sequence[str], most: int, seed: int) -> list[int]:
    """Places of at most `most` points, equally many of each speaker who has so many."""
    own = np.array(speakers)
    names = sorted(set(speakers))
    generator = numpy_generator(seed, "points")
    share = max(1, most // max(1, len(names)))
    drawn = [generator.permutation(np.flatnonzero(own == name))[:share] for name in names]
    return sorted(np.concatenate(drawn).tolist()) if drawn else []


def has_labels(corpus: Corpus, labels: str) -> bool:
    """True if the corpus has an alignment of that name."""
    try:
        corpus.labels(labels)
    except InputError:
        return False
    return True


def confusions(
    model: CPC, corpus: Corpus, train: Rows, test: Rows, labels: str = "phones", device: str = "cpu"
) -> Int64[np.ndarray, "phone phone"]:
    """How many test frames of each phone a linear classifier on c takes for each phone of the inventory."""
    inventory = corpus.labels(labels).inventory
    (x, y), (judged, truth) = (_labelled(model, corpus, rows, labels) for rows in (train, test))
    if not len(y) or not len(truth):
        raise InputError(f"labels={labels}: no labelled frames in one of the splits; give splits that have labels")
    classes = np.unique(y)
    classifier = fit(x, torch.from_numpy(np.searchsorted(classes, y)), len(classes), Fitting(l2=_L2), device)
    guessed = classes[classifier.predict(judged).numpy()]
    counts = np.zeros((len(inventory), len(inventory)), np.int64)
    np.add.at(counts, (truth, guessed), 1)
    return counts


def _labelled(
    model: CPC, corpus: Corpus, rows: Rows, labels: str
) -> tuple[Float32[Tensor, "frame dim"], Int64[np.ndarray, " frame"]]:
    """c and the phone at the centre of every labelled frame."""
    table, alignment = extract(model, corpus, rows, ("c",))["c"], corpus.labels(labels)
    y = np.full(len(table.frames), -1, np.int64)
    for i, row in enumerate(rows.tolist()):
        if (id := corpus.ids[row]) in alignment:
            centres = model.frame_centres(int(table.counts[i]))
            y[table.offsets[i] : table.offsets[i + 1]] = alignment.frames(id, centres)
    return table.frames[torch.from_numpy(y >= 0)], y[y >= 0]
