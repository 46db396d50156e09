"""How far the ratios of two printings of one table lie apart."""

import re
from typing import NamedTuple

HEAD = ("section", "ratios", "within 15%", "the farthest", "was", "is", "change")
BOUND = 0.15
NUMBER = re.compile(r"-?[\d,]*\.?\d+")


class Change(NamedTuple):
    """A ratio, by its row and column, as it was and as it is."""

    where: str
    before: float
    after: float
    digit: float  # the value of the last digit that was printed

    @property
    def relative(self) -> float:
        """|after − before| / before, beyond what rounding explains."""
        apart = max(0.0, abs(self.after - self.before) - self.digit)
        return apart / abs(self.before) if self.before else 0.0


def tables(text: str) -> list[list[list[str]]]:
    """The cells of drawn and Markdown tables, row by row, headings first."""
    found: list[list[list[str]]] = []
    lines = [line.strip() for line in text.splitlines()]
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if line[:1] not in tuple("│┃|") or _is_rule(line):
            continue
        if line[0] == "┃" or _is_rule(after):
            found.append([])
        found[-1].append([cell.strip() for cell in re.split(r"[│┃|]", line)[1:-1]])
    return found


def ratios(text: str) -> dict[str, str]:
    """Every ratio of the tables, as printed, by its row and column; what has the name of another is counted."""
    found: dict[str, str] = {}
    for heading, *rows in tables(text):
        for row in rows:
            name = ", ".join([row[0], *(cell for cell in row[1:] if cell and not cell[0].isdigit())])
            for title, cell in zip(heading[1:], row[1:], strict=False):
                if _is_number(cell) and (_is_ratio(title) or " / " in row[0]):
                    found[_unused(f"{name}: {title}", found)] = cell
    return found


def changes(old: str, new: str) -> list[Change]:
    """The ratios that both have."""
    before, after = ratios(old), ratios(new)
    return [
        Change(place, _value(cell), _value(after[place]), 10.0 ** -len(cell.rstrip("%").partition(".")[2]))
        for place, cell in before.items()
        if place in after and not _value(cell) == _value(after[place]) == 1  # what others are measured by
    ]


def summary(found: list[Change]) -> list[str]:
    """The cells of a section under HEAD, after its name."""
    if not found:
        return ["0", "", "", "", "", ""]
    worst = max(found, key=lambda change: change.relative)
    near = sum(change.relative <= BOUND for change in found)
    moved = worst.after / worst.before - 1 if worst.before else 0.0
    return [str(len(found)), str(near), worst.where, f"{worst.before:g}", f"{worst.after:g}", f"{moved:+.0%}"]


def _is_rule(line: str) -> bool:
    return line.startswith("|") and set(line) <= set("|-: ")


def _is_number(cell: str) -> bool:
    return NUMBER.fullmatch(cell.rstrip("%")) is not None


def _is_ratio(title: str) -> bool:
    return ("×" in title and "real time" not in title) or title.startswith(("ratio", "share"))


def _value(cell: str) -> float:
    return float(cell.rstrip("%").replace(",", ""))


def _unused(place: str, taken: dict[str, str]) -> str:
    number, name = 2, place
    while name in taken:
        name, number = f"{place} ({number})", number + 1
    return name
