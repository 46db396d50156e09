"""What the pictures show: phones as points with their speakers, and which phone a classifier takes for which."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from cpc import plotting as style
from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.data.splits import has_speaker
from cpc.evaluation.features import extract
from cpc.evaluation.phones import by_manner, silent_classes
from cpc.evaluation.probes.linear import Fitting, fit
from cpc.models.collapse import LayerName, rank_of
from cpc.models.cpc import CPC
from cpc.seeding import numpy_generator

Rows = Int64[np.ndarray, " _"]
_SHORTEST = 0.03  # seconds: the middle of a shorter phone is no longer its own
_L2 = 1e-4  # of the classifier: the picture asks for confusions, not for the last tenth of a percent


class Points(NamedTuple):
    """One frame of c for each phone (its middle) or, without labels, frames half a second apart."""

    vectors: Float32[Tensor, "point dim"]
    phones: list[str] | None
    speakers: list[str]


def subsample(rows: Rows, most: int) -> Rows:
    """At most so many rows, evenly spaced."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(np.int64))]


def by_speakers(corpus: Corpus, rows: Rows, speakers: int, most: int) -> Rows:
    """Rows of the speakers with the most audio among them, about equally many of each, at most so many in all."""
    if (known := has_speaker(corpus, rows)).any():
        rows = rows[known]
    names = np.array([corpus.speakers[row] for row in rows.tolist()])
    seconds = {name: int(corpus.samples[rows[names == name]].sum()) for name in sorted(set(names.tolist()))}
    chosen = sorted(seconds, key=lambda name: -seconds[name])[:speakers]
    return np.concatenate([subsample(rows[names == name], max(1, most // len(chosen))) for name in sorted(chosen)])


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
    (x, y), (evaluated, truth) = (_labelled(model, corpus, rows, labels) for rows in (train, test))
    if not len(y) or not len(truth):
        raise InputError(f"labels={labels}: no labelled frames in one of the splits; give splits that have labels")
    classes = np.unique(y)
    classifier = fit(x, torch.from_numpy(np.searchsorted(classes, y)), len(classes), Fitting(l2=_L2), device)
    guessed = classes[classifier.predict(evaluated).numpy()]
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


# --- Maps of c in two dimensions, by phone and by speaker (van den Oord 2018, figure 2): t-SNE and UMAP.


Method = Literal["t-SNE", "UMAP"]
NEIGHBOURS, PERPLEXITY = 15, 30  # the defaults of both methods' authors
_PRINCIPAL = 50  # dimensions kept before t-SNE, as van der Maaten & Hinton 2008 do
_FEWEST = 5  # points without which a phone's name is not written


def project(vectors: Float[np.ndarray, "point dim"], method: Method, seed: int = 0) -> Float[np.ndarray, "point 2"]:
    """Two coordinates a point. The same seed gives the same map (on one thread).

    Raises InputError where umap-learn is needed and not installed, or there are too few points for a map.
    """
    if len(vectors) < 10:
        raise InputError(f"points={len(vectors)}: too few for a map; give at least 10")
    from sklearn.decomposition import PCA

    kept = PCA(min(_PRINCIPAL, *vectors.shape), random_state=seed).fit_transform(vectors)
    if method == "t-SNE":
        from sklearn.manifold import TSNE

        perplexity = min(PERPLEXITY, (len(kept) - 1) / 3)
        return np.asarray(TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(kept))
    found = _umap()(n_neighbors=min(NEIGHBOURS, len(kept) - 1), random_state=seed, n_jobs=1).fit_transform(kept)
    return np.asarray(found)


def _umap() -> Any:
    try:
        from umap import UMAP
    except ImportError:
        raise InputError("umap: umap-learn is not installed; install it with: pip install umap-learn") from None
    return UMAP


def draw_scatter(
    points: Float[np.ndarray, "point 2"],
    phones: Sequence[str] | None,
    speakers: Sequence[str],
    path: Path,
    title: str = "",
) -> Path:
    """The same points twice: coloured by manner with the names of phones where they are densest, and by speaker.

    `phones` and `speakers` name each point's; without phones only the speakers are drawn.
    """
    count = 1 if phones is None else 2
    with style.picture(path, (6.6 * count, 6.8), ncols=count, squeeze=False) as (figure, axes):
        panels = list(axes[0])
        if phones is not None:
            inventory = sorted(set(phones))
            groups = {inventory[m]: manner.name for manner in by_manner(inventory) for m in manner.members}
            order = [manner.name for manner in by_manner(inventory)]
            _points(panels[0], points, [groups[phone] for phone in phones], order)
            _names(panels[0], points, np.array(phones))
            panels[0].set_title("by phone, coloured by manner of articulation")
        _points(panels[-1], points, speakers, sorted(set(speakers)))
        panels[-1].set_title("by speaker")
        figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return path


def _points(axis: Any, points: Float[np.ndarray, "point 2"], classes: Sequence[str], order: Sequence[str]) -> None:
    own = np.array(classes)
    for number, name in enumerate(order):
        chosen = points[own == name]
        look = {"color": style.colour(number), "marker": style.marker(number)}
        axis.scatter(*chosen.T, s=9, alpha=0.65, linewidths=0, label=style.shorten(name, 16), **look)
    axis.grid(False)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=4, markerscale=2.2, handletextpad=0.2)


def _names(axis: Any, points: Float[np.ndarray, "point 2"], phones: Any) -> None:
    """Each phone's name where its points are densest, the most frequent first; one that would cover another is left."""
    from matplotlib.patheffects import withStroke

    room = np.ptp(points, axis=0) * (0.045, 0.03)
    names, counts = np.unique(phones, return_counts=True)
    taken: list[Any] = []
    for phone in names[np.argsort(-counts, kind="stable")].tolist():
        own = points[phones == phone]
        if len(own) < _FEWEST:
            continue
        place = densest(own)
        if any((np.abs(place - other) < room).all() for other in taken):
            continue
        taken.append(place)
        halo = [withStroke(linewidth=2.5, foreground="white")]
        axis.text(*place, phone, ha="center", va="center", fontsize=9, fontweight="bold", path_effects=halo)


def densest(points: Float[np.ndarray, "point 2"]) -> Float[np.ndarray, "2"]:
    """The point whose tenth of nearest neighbours is nearest."""
    near = max(1, len(points) // 10)
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return np.asarray(points[np.sort(apart, axis=1)[:, : near + 1].sum(1).argmin()])


# --- How many directions z and c use: their variances along principal axes, beside those of an untrained model.


def draw_variance(layers: Mapping[LayerName, Mapping[str, Float64[np.ndarray, " dim"]]], path: Path) -> Path:
    """`layers[layer][name]`: variances along the principal axes, the largest first. One panel a layer.

    Each is shown as a share of its sum, so that scale does not matter; the legend gives effective ranks.
    """
    import torch

    with style.picture(path, (5.6 * len(layers), 4.4), ncols=len(layers), squeeze=False, sharey=True) as (_, axes):
        for axis, (layer, found) in zip(axes[0], layers.items(), strict=True):
            for number, (name, variances) in enumerate(found.items()):
                share = np.maximum(variances / max(variances.sum(), 1e-300), 1e-12)
                rank = rank_of(torch.from_numpy(variances))
                label = f"{style.shorten(name)}: {rank:.0f} of {len(variances)} directions"
                axis.plot(np.arange(1, len(share) + 1), share, color=style.colour(number), label=label)
            axis.set(title=f"{layer}: share of the variance", xlabel="principal axis", yscale="log", ylim=(1e-7, 1))
            axis.legend(loc="lower left")
    return path
