"""docs/formats.md says what is true: versions, columns, and every name that randomness is drawn from."""

import ast
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cpc.data import shards
from cpc.models import checkpoint
from tests.packed import make_corpus

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
DRAWING = ("derive", "numpy_generator", "torch_generator")


def seed_names() -> set[str]:
    """The literal names in calls of `derive` and of the generators."""
    found = set()
    for path in [*(ROOT / "cpc").rglob("*.py"), *(ROOT / "data_prep").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in DRAWING:
                found |= {a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return found


@pytest.mark.parametrize("name", sorted(seed_names()))
def test_every_name_of_a_seed_is_on_the_page(name: str) -> None:
    assert f"`{name}`" in PAGE.split("## Seeds")[1]


def test_a_packed_corpus_is_what_the_page_says(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path, {"a-1-0": 0.1, "b-1-0": 0.2})
    section = PAGE.split("## Checkpoint")[0]
    assert f"`format` {shards.FORMAT}," in section
    info = json.loads((corpus.path / "corpus.json").read_text())
    assert all(f"`{key}`" in section for key in info)
    assert all(f"`{name}`" in section for name in pq.read_schema(corpus.path / "manifest.parquet").names)
    assert {path.name for path in corpus.path.iterdir()} == {"corpus.json", "manifest.parquet", "shards", "skipped.tsv"}


def test_a_checkpoint_says_its_format() -> None:
    assert f"`format` {checkpoint.FORMAT}," in PAGE.split("## Checkpoint")[1]
