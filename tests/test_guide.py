"""The guide's numbers are computed, and its pictures are what its script draws."""

import doctest
import importlib.util
import re
from pathlib import Path

from matplotlib.image import imread

DOCS = Path(__file__).parents[1] / "docs"


def test_every_number_of_the_guide_is_what_the_code_gives() -> None:
    found = doctest.testfile(str(DOCS / "contrastive.md"), module_relative=False)
    assert found.attempted > 10
    assert found.failed == 0


def test_the_guide_shows_the_pictures_that_its_script_draws(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("pictures", DOCS / "pictures.py")
    assert spec
    assert spec.loader
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    pictures.main(tmp_path)
    names = ("contrastive.md", "concepts/cpc.md", "representation.md")
    pages = [(DOCS / name).read_text(encoding="utf-8") for name in names]
    shown = {name for page in pages for name in re.findall(r"\]\((?:\.\./)?([\w-]+\.png)\)", page)}
    assert shown == {path.name for path in tmp_path.glob("*.png")}
    for name in shown:
        drawn, kept = imread(tmp_path / name), imread(DOCS / name)
        assert drawn.shape == kept.shape
        assert abs(drawn - kept).mean() < 0.01  # another matplotlib draws letters a little differently
