"""Pictures: what they are drawn from follows laws; each is drawn whole, or left out with a reason."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from cpc import plotting as style
from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.evaluation.diagnostics import Horizon, load_trained
from cpc.evaluation.experiment import Row
from cpc.evaluation.phones import MANNERS, OTHER, by_manner
from cpc.evaluation.plots import maps as scatter
from cpc.evaluation.plots.gallery import draw_all
from cpc.evaluation.plots.loss import draw_horizon, draw_utterance
from cpc.evaluation.plots.maps import by_speakers, confusions, draw_variance, points, subsample
from cpc.evaluation.plots.phones import draw_confusion, draw_phone_pairs
from cpc.evaluation.plots.results import draw_budgets, draw_intervals
from cpc.tracking.curves import draw
from cpc.tracking.mlflow import connect
from tests.evaluation.trained import save_untrained

ARPABET = "SIL SPN AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"


@pytest.fixture(scope="module")
def run(chords: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_untrained(chords.path, tmp_path_factory.mktemp("runs") / "name", tracked=True)


def has_ink(path: Path) -> bool:
    """A PNG with colours, not a blank page."""
    return bool(np.ptp(imread(path)[..., :3]) > 0.5) and path.stat().st_size > 5000


def test_manners_part_the_inventory() -> None:
    inventory = ARPABET.split()
    groups = by_manner(inventory)
    assert sorted(member for group in groups for member in group.members) == list(range(41))
    assert [group.name for group in groups] == [name for name in MANNERS if name != "closures"]  # TIMIT has some
    nasals = next(group for group in groups if group.name == "nasals")
    assert [inventory[member] for member in nasals.members] == ["M", "N", "NG"]


def test_manners_know_stress_and_case_and_keep_what_they_do_not_know() -> None:
    groups = {group.name: group.members for group in by_manner(["ah0", "17", "m"], without=("nasals",))}
    assert groups == {"vowels": (0,), OTHER: (1,)}


def test_few_are_spread_evenly_and_never_more() -> None:
    rows = np.arange(100, 200)
    assert subsample(rows, 3).tolist() == [100, 150, 199]
    np.testing.assert_array_equal(subsample(rows, 1000), rows)


def test_the_speakers_of_a_map_are_balanced(chords: Corpus) -> None:
    rows = by_speakers(chords, chords.rows("speaker_train"), speakers=3, most=12)
    names = [chords.speakers[row] for row in rows.tolist()]
    assert len(rows) == 12
    assert [names.count(name) for name in sorted(set(names))] == [4, 4, 4]


def test_points_are_the_middles_of_phones(run: Path, chords: Corpus) -> None:
    """A point carries the label that holds at its own frame, by the other way through the centres of frames."""
    model, row = load_trained(run).model, int(chords.rows("phone_test")[0])
    found = points(model, chords, np.array([row]), most=1000)
    centres = model.frame_centres(model.frames(int(chords.samples[row])))
    _, offsets, phones = chords.labels().intervals(chords.ids[row])[1:]
    long = [i for i in range(len(phones)) if offsets[i] <= centres[-1]]
    assert found.phones == [chords.labels().inventory[phones[i]] for i in long]
    assert found.vectors.shape == (len(long), 16)
    assert set(found.speakers) == {chords.speakers[row]}


def test_confusions_count_every_labelled_frame_and_find_what_can_be_found(run: Path, chords: Corpus) -> None:
    """Chords are easy: even an untrained encoder tells them apart far better than by their frequency."""
    model, (train, test) = load_trained(run).model, (chords.rows("phone_train")[:12], chords.rows("phone_test")[:6])
    counts = confusions(model, chords, train, test)
    frames = sum(
        int((chords.labels().frames(chords.ids[row], model.frame_centres(n)) >= 0).sum())
        for row in test.tolist()
        for n in [model.frames(int(chords.samples[row]))]
    )
    assert counts.sum() == frames
    assert np.trace(counts) > 1.5 * counts.sum(1).max()


def test_densest_is_inside_the_crowd() -> None:
    crowd, strays = np.random.default_rng(0).normal(0, 0.1, (40, 2)), np.full((5, 2), 9.0) + np.arange(5)[:, None]
    assert np.linalg.norm(scatter.densest(np.concatenate([strays, crowd]))) < 0.3


def test_tsne_keeps_clusters_together_and_is_the_same_again() -> None:
    generator = np.random.default_rng(0)
    x = np.concatenate([generator.normal(centre, 0.1, (20, 5)) for centre in (0, 5)])
    found = scatter.project(x, "t-SNE")
    np.testing.assert_array_equal(found, scatter.project(x, "t-SNE"))
    own = max(np.ptp(found[:20], axis=0).max(), np.ptp(found[20:], axis=0).max())
    assert np.linalg.norm(found[:20].mean(0) - found[20:].mean(0)) > own / 2
    with pytest.raises(InputError, match="too few for a map"):
        scatter.project(x[:5], "t-SNE")


def test_umap_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    with pytest.raises(InputError, match=r"pip install umap-learn"):
        scatter.project(np.eye(12), "UMAP")


@pytest.mark.slow
def test_umap_keeps_clusters_together() -> None:
    pytest.importorskip("umap", reason="umap-learn is not installed")
    x = np.concatenate([np.random.default_rng(n).normal(5 * n, 0.1, (20, 5)) for n in (0, 1)])
    found = scatter.project(x, "UMAP")
    assert np.linalg.norm(found[:20].mean(0) - found[20:].mean(0)) > np.ptp(found[:20], axis=0).max() / 2


def test_each_picture_is_drawn_from_its_data(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    steps, inventory = np.linspace(0.9, 0.1, 12), ARPABET.split()
    horizon = Horizon(steps, steps - 0.02, steps + 0.02, steps / 2, 4 - 3 * steps, 1 / 129, 4.86, 10.0, 7)
    counts = generator.integers(0, 9, (41, 41)) + 40 * np.eye(41, dtype=np.int64)
    errors = {(a, b): 0.2 for a in inventory[2:] for b in inventory[2:] if a != b}
    wave, surprise = generator.normal(0, 0.1, 32000).astype(np.float32), generator.random((12, 200))
    places, centres = generator.normal(size=(60, 2)), np.arange(200) / 100
    speakers = [f"s{n % 12}" for n in range(60)]
    curve = [(step, 5 - step / 100) for step in range(0, 200, 10)]
    drawn = [
        draw({"a$run$": {"train/loss": curve, "ceiling": [(0, 4.86)]}}, tmp_path / "curves.png"),
        draw_horizon({"run": horizon, "other": horizon}, tmp_path / "horizon.png"),
        draw_confusion(counts, inventory, tmp_path / "confusion.png"),
        draw_phone_pairs(errors, tmp_path / "abx.png"),
        draw_utterance(wave, 16000, surprise, centres, tmp_path / "utterance.png", ceiling=4.86),
        scatter.draw_scatter(places, ["AA", "S", "17"] * 20, speakers, tmp_path / "map.png"),
        draw_variance({"z": {"run": steps**4, "untrained": steps**2}}, tmp_path / "variance.png"),
        draw_budgets({"phone/test": {"a": [(1.0, 0.2, 0.1, 0.3), (10.0, 0.4, 0.3, 0.5)]}}, tmp_path / "budget.png"),
        draw_intervals([Row("a", "CPC c", {}, {"phone/t": (0.4, 0.3, 0.5)}, "FINISHED", 0)], tmp_path / "i.png"),
    ]
    assert all(has_ink(path) for path in drawn)
    assert not list(tmp_path.glob("*partial*"))


def test_the_same_data_give_the_same_svg(tmp_path: Path) -> None:
    rows = [Row("a", "CPC c", {}, {"phone/t": (0.4, 0.3, 0.5)}, "FINISHED", 0)]
    one, other = (draw_intervals(rows, tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
    assert one == other
    assert one.startswith(b"<?xml")


def test_colours_and_markers_differ_for_sixty_four_things() -> None:
    assert len({(style.colour(n), style.marker(n)) for n in range(64)}) == 64
    assert style.shorten("x" * 90, 20) == "xxxxxxxxx…xxxxxxxxxx"


def test_all_pictures_of_a_run_are_drawn_and_logged(run: Path, chords: Corpus) -> None:
    said: list[str] = []
    drawn = draw_all(run, chords.path, most=12, say=said.append)
    names = {"curves", "horizon", "variance", "utterance", "tsne", "confusion"}
    assert names <= {path.stem for path in drawn} <= names | {"umap"}
    assert all(has_ink(path) for path in drawn)
    client = connect(run.parent)
    run_id = client.search_runs([client.get_experiment_by_name("exp").experiment_id])[0].info.run_id
    logged = {Path(file.path).name for file in client.list_artifacts(run_id, "figures")}
    assert logged == {path.name for path in drawn}


def test_what_cannot_be_drawn_is_said(tones: Path, tmp_path: Path) -> None:
    """A corpus without labels, a run that MLflow does not know: the rest is drawn, and the reasons are given."""
    said: list[str] = []
    drawn = draw_all(save_untrained(tones, tmp_path / "run"), tones, "pretrain", "valid", most=4, say=said.append)
    assert {"horizon", "utterance", "variance"} <= {path.stem for path in drawn}
    assert any(line.startswith("confusion: skipped: labels=phones") for line in said)
    assert "is not in sqlite" in said[-1]
    with pytest.raises(InputError, match="split=nowhere"):
        draw_all(tmp_path / "run", tones, "nowhere", "valid")
