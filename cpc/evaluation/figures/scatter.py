"""Maps of c in two dimensions, by phone and by speaker (van den Oord 2018, figure 2): t-SNE and UMAP."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from cpc import style
from cpc.config import InputError
from cpc.evaluation.phones import by_manner

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
        raise InputError("umap: umap-learn is not installed; install it with: pip install 'cpc-audio[umap]'") from None
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
