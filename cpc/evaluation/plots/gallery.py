"""All pictures of a run on a corpus: drawn into its folder and onto its run in MLflow."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.evaluation.diagnostics import TrainedCPC, horizon, load_trained, surprise
from cpc.evaluation.features import extract
from cpc.evaluation.plots.loss import draw_horizon, draw_utterance
from cpc.evaluation.plots.maps import (
    Method,
    by_speakers,
    confusions,
    draw_scatter,
    draw_variance,
    has_labels,
    points,
    project,
    subsample,
)
from cpc.evaluation.plots.phones import draw_confusion
from cpc.losses.objectives import InfoNCE
from cpc.models.collapse import LayerName, spectrum
from cpc.models.cpc import build
from cpc.tracking.curves import draw, history
from cpc.tracking.mlflow import connect, is_active

ARTIFACTS = "figures"  # folder in the run's folder, and of its artifacts in MLflow
SPEAKERS = 10  # in a map, as in the paper's figure 2
_LONG = 5.0  # seconds: the utterance that is shown is about so long


@dataclass(frozen=True)
class Gallery:
    """What all pictures are drawn from. `most` caps the utterances that a picture looks at."""

    run: Path
    trained: TrainedCPC
    corpus: Corpus
    train: str
    test: str
    out: Path
    labels: str = "phones"
    most: int = 300
    device: str = "cpu"

    @property
    def name(self) -> str:
        return self.run.resolve().name

    @property
    def evaluated_rows(self) -> Int64[np.ndarray, " utterance"]:
        return np.unique(self.corpus.rows(self.test))

    @property
    def caption(self) -> str:
        return f"{self.name} on {self.corpus.name}, {self.test}"


def draw_all(
    run: Path,
    corpus: Path,
    train: str = "phone_train",
    test: str = "phone_test",
    *,
    out: Path | None = None,
    labels: str = "phones",
    most: int = 300,
    device: str = "cpu",
    say: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """Draw every picture that can be drawn into `out` (runs/NAME/figures) and log them to the run in MLflow.

    A picture that lacks something (labels, umap-learn, an MLflow store) is left out, and `say` is told why; the same
    for each one that is drawn. Raises InputError if `run` is no trained run or the splits are unknown.
    """
    from cpc.evaluation.runner import read_state

    state = read_state(run)
    opened = Corpus.open(corpus)
    model = load_trained(run, device)
    _check_rate(model, opened)
    gallery = Gallery(run, model, opened, train, test, out or run / ARTIFACTS, labels, most, device)
    opened.rows(train), opened.rows(test)
    client = connect(run.parent)
    known = is_active(client, state["run_id"])
    drawn: list[Path] = []
    for name, picture in _pictures(client if known else None, state["run_id"]):
        try:
            path = picture(gallery)
        except InputError as error:
            say(f"{name}: skipped: {error}")
            continue
        say(f"{name}: {path}")
        drawn.append(path)
        if known:
            client.log_artifact(state["run_id"], str(path), ARTIFACTS)
    if not known:
        say(f"run {state['run_id']} is not in {client.tracking_uri}: the pictures are in {gallery.out} only")
    return drawn


def _check_rate(model: TrainedCPC, corpus: Corpus) -> None:
    if model.model.sample_rate != corpus.sample_rate:
        rule = f"has {corpus.sample_rate} Hz where the model needs {model.model.sample_rate}; pack it at that rate"
        raise InputError(f"corpus={corpus.path}: {rule}")


def _pictures(client: Any, run_id: str) -> Iterator[tuple[str, Callable[[Gallery], Path]]]:
    if client is not None:
        yield "curves", lambda g: draw({g.name: history(client, run_id)}, g.out / "curves.png")
    yield "horizon", _horizon
    yield "variance", _variance
    yield "utterance", _utterance
    yield "t-SNE", lambda g: _map(g, "t-SNE")
    yield "UMAP", lambda g: _map(g, "UMAP")
    yield "confusion", _confusion


def _horizon(gallery: Gallery) -> Path:
    found = horizon(gallery.trained, gallery.corpus, subsample(gallery.evaluated_rows, gallery.most), batches=16)
    return draw_horizon({gallery.caption: found}, gallery.out / "horizon.png")


def _variance(gallery: Gallery) -> Path:
    rows = subsample(gallery.evaluated_rows, max(1, gallery.most // 10))
    untrained = build(gallery.trained.model.config, 0).to(gallery.device)
    layers: dict[LayerName, dict[str, Any]] = {"z": {}, "c": {}}
    for name, model in ((gallery.name, gallery.trained.model), ("untrained", untrained)):
        for layer, table in extract(model, gallery.corpus, rows).items():
            layers["z" if layer == "z" else "c"][name] = spectrum(table.frames).numpy()
    return draw_variance(layers, gallery.out / "variance.png")


def _utterance(gallery: Gallery) -> Path:
    corpus, model, rows = gallery.corpus, gallery.trained.model, gallery.evaluated_rows
    labelled = has_labels(corpus, gallery.labels)
    if labelled:
        alignment = corpus.labels(gallery.labels)
        rows = np.array([row for row in rows.tolist() if corpus.ids[row] in alignment], np.int64)
        rows = rows if len(rows) else gallery.evaluated_rows
    row = int(rows[np.abs(corpus.samples[rows] / corpus.sample_rate - _LONG).argmin()])
    found = surprise(gallery.trained, corpus, row, gallery.evaluated_rows)
    id, frames = corpus.ids[row], found.shape[1]
    phones = corpus.labels(gallery.labels).intervals(id) if labelled and id in corpus.labels(gallery.labels) else None
    loss, sequences = gallery.trained.loss, min(gallery.trained.loss.group_size, gallery.trained.windows.batch_size)
    return draw_utterance(
        np.array(corpus.waveform(row), np.float32) / 2**15,
        corpus.sample_rate,
        found,
        model.frame_centres(frames),
        gallery.out / "utterance.png",
        phones=phones,
        inventory=corpus.labels(gallery.labels).inventory if labelled else (),
        ceiling=loss.ceiling(sequences, frames) if isinstance(loss.objective, InfoNCE) else None,
        title=f"{gallery.name}: {id}  {corpus.texts[row].lower()}",
    )


def _map(gallery: Gallery, method: Method) -> Path:
    rows = by_speakers(gallery.corpus, gallery.evaluated_rows, SPEAKERS, gallery.most)
    found = points(gallery.trained.model, gallery.corpus, rows, labels=gallery.labels)
    places = project(found.vectors.numpy().astype(np.float64), method)
    what = "middles of phones" if found.phones else "frames"
    title = f"{method} of c, {gallery.caption}: {len(places)} {what} of {len(set(found.speakers))} speakers"
    path = gallery.out / f"{'tsne' if method == 't-SNE' else 'umap'}.png"
    return draw_scatter(places, found.phones, found.speakers, path, title)


def _confusion(gallery: Gallery) -> Path:
    corpus, model = gallery.corpus, gallery.trained.model
    train, test = (subsample(np.unique(corpus.rows(split)), gallery.most) for split in (gallery.train, gallery.test))
    if shared := len(np.intersect1d(train, test)):
        raise InputError(f"train={gallery.train}, test={gallery.test}: share {shared} utterances; give two that do not")
    counts = confusions(model, corpus, train, test, gallery.labels, gallery.device)
    title = f"linear classifier on c, {gallery.caption}"
    return draw_confusion(counts, corpus.labels(gallery.labels).inventory, gallery.out / "confusion.png", title)
