"""`make bench` finds the place of every table, and replaces it."""

import pytest

from benchmarks.__main__ import SECTIONS, TABLES, insert, markers, repeated
from benchmarks.repeat import changes, ratios, summary
from cpc.config import InputError


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_has_its_place(section: str) -> None:
    page = TABLES.read_text()
    begin, end = markers(section)
    assert page.count(begin) == page.count(end) == 1
    assert page.index(begin) < page.index(end)


def test_a_table_takes_the_place_of_the_old_one() -> None:
    page = TABLES.read_text()
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


DRAWN = """
┏━━━━━━━┳━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━━━━━┓
┃ what  ┃     s ┃ × faster ┃ × real time ┃
┡━━━━━━━╇━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━━━━━┩
│ usual │ 3.764 │      1.0 │           3 │
│ ours  │ 0.360 │     10.4 │          28 │
└───────┴───────┴──────────┴─────────────┘
"""
WRITTEN = """
| files | MiB | ratio |
| --- | ---: | ---: |
| 300 | 13 | 1.00 |
| 3,000 | 20 | 1.54 |
| a / b | 0.70 | |
"""


def test_ratios_are_found_by_row_and_column() -> None:
    assert ratios(DRAWN) == {"usual: × faster": "1.0", "ours: × faster": "10.4"}
    two = "| utterances | 1,000 | ratio |\n| --- | ---: | ---: |\n| open, ms | 1.15 (1.20) | 59.2 |\n"
    assert ratios(two) == {"open, ms: ratio": "59.2"}  # whatever the times are
    assert ratios(WRITTEN) == {"300: ratio": "1.00", "3,000: ratio": "1.54", "a / b: MiB": "0.70"}


def test_a_ratio_that_moves_is_told_from_one_that_is_rounded() -> None:
    (moved,) = changes(DRAWN, DRAWN.replace("10.4", "13.0"))
    assert (moved.where, moved.before, moved.after) == ("ours: × faster", 10.4, 13.0)
    assert moved.relative == pytest.approx(2.5 / 10.4)
    assert summary([moved]) == ["1", "0", "ours: × faster", "10.4", "13", "+25%"]
    rounded, kept = changes(WRITTEN, WRITTEN.replace("0.70", "0.71"))[::-1]
    assert rounded.relative == pytest.approx(0)
    assert kept.relative == 0
    assert summary([]) == ["0", "", "", "", "", ""]


def test_a_section_that_is_measured_again_has_one_row() -> None:
    page = repeated(TABLES.read_text(), "step", DRAWN, DRAWN.replace("10.4", "13.0"))
    page = repeated(page, "used", DRAWN, DRAWN)
    again = repeated(page, "step", DRAWN, DRAWN)
    assert "| step | 1 | 0 | ours: × faster | 10.4 | 13 | +25% |" in page
    assert "| step | 1 | 1 | ours: × faster | 10.4 | 10.4 | +0% |" in again
    assert again.count("\n| step | 1") == again.count("\n| used | 1") == 1
