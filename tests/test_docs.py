"""The site, as far as it can be told without building it: `make docs` builds it, and executes the tutorials."""

import ast
import importlib.util
import logging
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

import cpc

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.py"))


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav if isinstance(nav, list) else nav.values()) for page in pages(part)]


def test_every_page_is_in_the_menu_and_every_entry_is_a_page(hooks: ModuleType) -> None:
    text = (ROOT / "mkdocs.yml").read_text().replace("!ENV ", "")
    listed = pages(yaml.safe_load(text)["nav"])
    made = set(hooks.ORIGIN) | {f"reference/{name}.md" for name in ("cli", "configuration", "python", "licences")}
    files = (path.relative_to(DOCS) for path in [*DOCS.rglob("*.md"), *TUTORIALS])
    written = {path.as_posix() for path in files if "work" not in path.parts}
    assert len(listed) == len(set(listed))
    assert set(listed) == made | written


def test_the_reference_names_every_verb_and_setting(hooks: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        commands, settings, names = hooks.command_line(), hooks.configuration(), hooks.python()
        licences = hooks.licences()
    for verb in ("train", "probe", "embed", "data folder", "data huggingface", "data webdataset", "export"):
        assert f"## `cpc {verb}`" in commands
    assert "One of `npy`, `parquet`" in commands
    assert "| `loss.score.centre` |" in settings
    for name in set(cpc.__all__) - {"__version__"}:
        assert re.search(rf"^::: [\w.]+\.{name}$", names, re.MULTILINE), name
    assert re.search(r"^\| torch \| \S+ \| .*BSD", licences, re.MULTILINE)
    assert not caplog.records  # no public name without a docstring, no package without its row


def test_links_lead_to_the_pages_of_the_site(hooks: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    def shown(text: str, here: str) -> str:
        return str(hooks.on_page_markdown(text, SimpleNamespace(file=SimpleNamespace(src_uri=here))))

    assert shown("[a](../../docs/representation.md)", "recipes/speech.md") == "[a](../representation.md)"
    assert shown("[a](recipes/demo/README.md#x)", "contributing.md") == "[a](recipes/demo.md#x)"
    assert shown("[a](benchmarks/tables.md)", "architecture.md") == "[a](tables.md)"
    assert shown("see [`lap.sh`](lap.sh)", "speed.md") == "see `lap.sh`"  # no page: the words stay
    assert (
        shown("```\n[a](gone.md)\n```\n[b](https://x.org/y)", "faq.md")
        == "```\n[a](gone.md)\n```\n[b](https://x.org/y)"
    )
    assert not caplog.records
    shown("[a](gone.md)", "changelog.md")
    assert "links to gone.md, which is not in the repository" in caplog.text


@pytest.mark.parametrize("file", TUTORIALS, ids=lambda file: file.stem)
def test_a_tutorial_is_python_with_a_title_and_names_verbs_that_exist(file: Path, hooks: ModuleType) -> None:
    text = file.read_text(encoding="utf-8")
    ast.parse(text)
    assert text.startswith("# %% [markdown]\n# # ")
    commands = hooks.command_line()
    for line in re.findall(r"^# !(.*)$", text, re.MULTILINE):
        for verb in re.findall(r"\bcpc (data \w+|\w+)", line):
            assert f"## `cpc {verb}`" in commands, line
