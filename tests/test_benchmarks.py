"""`make bench` finds the place of every table, and replaces it."""

import pytest

from benchmarks.__main__ import README, SECTIONS, insert, markers
from cpc.config import InputError


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_has_its_place(section: str) -> None:
    page = README.read_text()
    begin, end = markers(section)
    assert page.count(begin) == page.count(end) == 1
    assert page.index(begin) < page.index(end)


def test_a_table_takes_the_place_of_the_old_one() -> None:
    page = README.read_text()
    once = insert(page, "step", "benchmarks.step", "┏━┓\n1\n")
    again = insert(once, "step", "benchmarks.step", "| a | b |")
    assert "```text\n┏━┓\n1\n```" in once
    assert "┏━┓\n1\n" not in again
    assert "    python -m benchmarks.step\n" in again
    assert "| a | b |\n\n<!-- end step -->" in again
    before, after = page.index("<!-- begin step -->"), page.index("<!-- end step -->")
    assert again.startswith(page[:before])
    assert again.endswith(page[after:])


def test_a_page_without_the_place_is_said() -> None:
    with pytest.raises(InputError, match="lacks the lines <!-- begin step -->"):
        insert("nothing", "step", "benchmarks.step", "x")
