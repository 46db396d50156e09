"""The page: everything is inside it, nothing in it is taken for markup, and it says what it shows."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.evaluation.experiment import rows
from cpc.evaluation.plots.results import draw_intervals
from cpc.evaluation.report import SORT, model_card, write_report
from cpc.evaluation.results import ProbeResult
from cpc.tracking.mlflow import connect
from tests.evaluation.recorded import add, add_result
from tests.evaluation.trained import save_untrained

EVIL = "<script>alert('x')</script> & \"co\" $x^2$"


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    curves = {"train/loss": [(10, 3.0), (20, 2.5)], "train/ceiling": [(20, 4.86)]}
    curves |= {"budget/phone/test/c/accuracy": [(1, 0.2), (10, 0.3), (0, 0.4)]}
    curves |= {f"budget/phone/test/c/{part}": curves["budget/phone/test/c/accuracy"] for part in ("low", "high")}
    params = {"optim.lr": 0.1, "seed": 0, "data.corpus": "data/mine", "training.max_steps": 20}
    tags = {"git_commit": "c0ffee", "collapse": "step 20: over"}
    evil = add(root, EVIL, params, {"phone/test/c": 0.4}, metrics=curves, tags=tags)
    add_result(root, evil, [40] * 10)
    parent = add(root, "sweep<b>", kind="sweep")
    for seed in (0, 1):
        add(root, f"child-seed{seed}", params | {"optim.lr": 0.2, "seed": seed}, {"phone/test/c": 0.41}, parent=parent)
    add(root, "MFCC", {}, {"phone/test/mfcc": 0.3}, kind="baseline")
    picture = draw_intervals(rows("exp", root), root / "horizon.png")
    connect(root).log_artifact(evil, str(picture), "figures")
    return root


@pytest.fixture(scope="module")
def page(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    path = write_report("exp", tmp_path_factory.mktemp("page") / "new" / "report.html", root)
    return Page(path.read_text(encoding="utf-8"))


def test_nothing_comes_from_outside(page: Page) -> None:
    assert not {tag for tag, _ in page.tags} & {"link", "iframe", "object", "base"}
    places = [value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href", "srcset")]
    assert places
    assert all(str(place).startswith("data:image/") for place in places)
    styles = " ".join(page.words)
    assert "@import" not in styles
    assert "url(" not in styles


def test_a_policy_forbids_what_should_not_be_there(page: Page) -> None:
    policies = [attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert str(policies[0]).startswith("default-src 'none'")


def test_the_one_script_is_ours_and_the_policy_lets_no_other_run(page: Page) -> None:
    assert [attrs for tag, attrs in page.tags if tag == "script"] == [{}]
    assert sum(word == SORT for word in page.words) == 1
    policy = next(
        str(attrs["content"]) for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    mark = base64.b64encode(hashlib.sha256(SORT.encode()).digest()).decode()
    assert f"script-src 'sha256-{mark}'" in policy
    assert policy.count("script-src") == 1
    assert "unsafe-inline" not in policy.split("script-src")[1]


def test_every_heading_of_the_results_is_a_button_and_numbers_sort_by_what_they_are(page: Page) -> None:
    start = next(place for place, (_, attrs) in enumerate(page.tags) if attrs.get("class") == "sortable")
    heads = [tag for tag, _ in page.tags[start:] if tag in ("th", "button", "tbody")]
    before = heads[: heads.index("tbody")]
    assert before.count("th") == before.count("button") >= 3
    values = [float(str(attrs["data-value"])) for tag, attrs in page.tags if tag == "td" and "data-value" in attrs]
    assert 0.41 in values


def test_names_are_words_not_markup(page: Page) -> None:
    assert "<script>alert('x')</script> & \"co\"" in page.text
    assert "sweep sweep<b>" in page.text
    assert "b" not in {tag for tag, _ in page.tags}


def test_numbers_marks_seeds_and_conditions_are_there(page: Page) -> None:
    for words in (
        "★ 41.0 [40.0, 42.0]",
        "≈ 40.0 [39.0, 41.0]",
        "30.0 [29.0, 31.0]",
        "41.0 ± 0.0",
        "c0ffee",
        "step 20: over",
    ):
        assert words in page.text
    assert "made: train → test; by hand." in page.text
    assert "Nobody was asked." in page.text


def test_pictures_have_words_for_those_who_cannot_see_them(page: Page) -> None:
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(images) == 4  # intervals, label budgets, curves, the run's own
    assert all(attrs["alt"] for attrs in images)
    assert sum(str(attrs["src"]).startswith("data:image/svg+xml") for attrs in images) == 3
    assert "Accuracy and bound against the horizon k" in page.text


def test_it_prints(page: Page) -> None:
    styles = " ".join(page.words)
    assert "@media print" in styles
    assert "@page" in styles


def test_an_experiment_without_results_has_a_page_too(root: Path, tmp_path: Path) -> None:
    add(root, "fresh", {"seed": 0}, experiment="fresh", status="RUNNING")
    page = Page(write_report("fresh", tmp_path / "r.html", root).read_text(encoding="utf-8"))
    assert "fresh (running)" in page.text
    assert "No run has been probed yet" in page.text


def test_a_folder_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"html=.*: is a folder"):
        write_report("exp", tmp_path, root)


def test_a_model_card_has_data_recipe_results_and_limits(chords: Corpus) -> None:
    run = save_untrained(chords.path, Path("runs") / "one")
    card = model_card(run)
    for heading in ("## Data", "## Recipe", "## Results", "## Intended use", "## Limits"):
        assert heading in card
    assert str(chords.path) in card
    assert "Not measured yet" in card
    ProbeResult(
        "phone", "CPC c", 0.4, 0.3, 0.5, 0.1, 6, "a", "b", 1, 1, 1, 1, 1, True, "made", "by hand"
    ).write(run / "probes" / "one.json")  # fmt: skip
    assert "| phone | CPC c | made: a → b | 40.0 [30.0, 50.0] |" in model_card(run)
