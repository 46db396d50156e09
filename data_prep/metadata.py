"""What is known about audio files: from their paths, LibriSpeech's text files beside them, and a table."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from cpc.config import InputError
from cpc.data.shards import Source, printable
from cpc.data.spool import Spool

_LIBRI = re.compile(r"(?P<speaker>[^-]+)-(?P<chapter>[^-]+)-[^-]+")
_GROUPS = ("speaker", "chapter", "sex", "subset")
Row = dict[str, str]


def describe(files: Iterable[Path], root: Path) -> Iterator[Source]:
    """A Source for each file below `root`.

    In LibriSpeech's layout (SUBSET/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.ext) all comes from the path, the
    transcripts and SPEAKERS.TXT in `root` or above it. Elsewhere the parent folder's name is the speaker, and
    the id is the path from `root` with '-' for '/'.
    """
    sexes = read_sexes([root, root.absolute().parent])
    texts: Row = {}
    folder = None
    for file in files:
        if file.parent != folder:
            folder = file.parent
            texts = read_transcripts(folder)
        text = texts.get(file.stem, "")
        yield _libri(file, sexes, text) or _plain(file, root, text)


def _libri(file: Path, sexes: Row, text: str) -> Source | None:
    name = _LIBRI.fullmatch(file.stem)
    chapter, speaker, subset = (*file.absolute().parts[-2:-5:-1], "", "", "")[:3]
    if name is None or (name["speaker"], name["chapter"]) != (speaker, chapter):
        return None
    return Source(file.stem, file, speaker, chapter, sexes.get(speaker, ""), subset, text)


def _plain(file: Path, root: Path, text: str) -> Source:
    id = one_line(file.relative_to(root).with_suffix("").as_posix().replace("/", "-"))
    return Source(id, file, parent_name(file), text=text)


def parent_name(file: Path) -> str:
    """The name of the folder that a file lies in."""
    return one_line(file.absolute().parent.name)


def one_line(name: str) -> str:
    """A name as printable text: odd bytes written out, control characters and odd blanks as plain ones."""
    return "".join(letter if letter.isprintable() else " " for letter in printable(name)).strip()


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """A regular expression with a group `speaker`. Raises InputError for a bad one, and for groups of other names."""
    names = ", ".join(f"(?P<{name}>...)" for name in _GROUPS)
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"speaker-regex={pattern}: not a regular expression ({error}); give one with {names}"
        ) from None
    if "speaker" not in compiled.groupindex or not set(compiled.groupindex) <= set(_GROUPS):
        raise InputError(f"speaker-regex={pattern}: needs a group (?P<speaker>...); others may be {names}")
    return compiled


def name_by_pattern(sources: Iterable[Source], pattern: re.Pattern[str], root: Path) -> Iterator[Source]:
    """What a pattern finds in the files' paths below `root` overrules what else is known.

    Raises InputError after the last, with counts and examples, if it finds no speaker in some of them.
    """
    lacks = _MissingRows()
    for source in sources:
        path = printable(source.path.relative_to(root).as_posix())
        match = pattern.search(path)
        lacks.count(path, not (match and match["speaker"]))
        yield _merge(source, match.groupdict("")) if match else source
    if lacks.without:
        remedy = "give a pattern that fits them too (this|that), or move them away"
        raise InputError(f"speaker-regex={pattern.pattern}: finds no speaker in {lacks}; {remedy}")


class _MissingRows:
    """Files that lack something, counted while they stream past."""

    def __init__(self) -> None:
        self.files = self.without = 0
        self.examples: list[str] = []

    def count(self, file: str, lacks: bool) -> None:
        self.files += 1
        if lacks:
            self.without += 1
            self.examples += [file] if self.without <= 3 else []

    def __str__(self) -> str:
        return f"{self.without} of {self.files} files, for example {', '.join(self.examples)}"


def read_sexes(places: list[Path]) -> Row:
    """Speaker to F or M, from LibriSpeech's SPEAKERS.TXT in the first of `places` that has it."""
    for path in (place / "SPEAKERS.TXT" for place in places):
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
            fields = [line.split("|", 4) for line in lines if not line.startswith(";")]
            return {field[0].strip(): field[1].strip() for field in fields if len(field) > 1}
    return {}


def read_transcripts(folder: Path) -> Row:
    """Id to text from every *.trans.txt of one folder: a line is `ID TEXT`."""
    files = sorted(folder.glob("*.trans.txt"))
    lines = [line for file in files for line in file.read_text(encoding="utf-8", errors="replace").split("\n")]
    return {id: text.strip() for id, _, text in (line.partition(" ") for line in lines)}


class Table:
    """Rows of a table by their ids, and by the files at their paths from one of `places`; kept on disk."""

    def __init__(self, rows: Iterable[Row], places: Sequence[Path]) -> None:
        self._rows, self._paths, self._used = Spool(), Spool(), Spool()
        for row in rows:
            if not row["id"] or row["id"] in self._rows:
                raise InputError(f"id {row['id']!r}; every row needs an id of its own")
            self._rows[row["id"]] = row
            for place in places if row.get("path") else ():
                self._paths[os.path.realpath(place / row["path"])] = row["id"]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def unused(self) -> int:
        """Rows that no file has taken yet."""
        return len(self) - len(self._used)

    def take(self, file: Path) -> Row | None:
        """The row of a file: the one at whose path it lies, else the one whose id is its stem."""
        row: Row | None = self._rows.get(self._paths.get(os.path.realpath(file)) or file.stem)
        if row:
            self._used[row["id"]] = True
        return row


def read_table(table: Path, places: Sequence[Path]) -> Table:
    """Rows of a TSV, without quoting; `gender` means `sex`. Raises InputError for bad or double ids."""
    if not table.is_file():
        raise InputError(f"table={table}: no such file")
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, restval="")
        if "id" not in (reader.fieldnames or ()):
            raise InputError(f"table={table}: its first line must name a column id, it names {reader.fieldnames}")
        try:
            return Table((row | {"sex": row.get("sex") or row.get("gender") or ""} for row in reader), places)
        except InputError as error:
            raise InputError(f"table={table}, line {reader.line_num}: {error}") from error


class Join:
    """Lets a table's rows overrule what the paths say of the files that stream past; `without` counts those without.

    If the table `must` name every speaker, iterating ends with an InputError, with counts and examples, where it
    does not.
    """

    def __init__(self, table: Table, must: bool = False) -> None:
        self.table, self.must, self.without = table, must, 0

    def __call__(self, sources: Iterable[Source]) -> Iterator[Source]:
        lacks = _MissingRows()
        for source in sources:
            row = self.table.take(source.path)
            self.without += row is None
            lacks.count(printable(str(source.path)), not (row and row.get("speaker")))
            yield _merge(source, row) if row else source
        if self.must and lacks.without:
            remedy = "add rows with their path or id, or move these files away"
            raise InputError(f"table: names no speaker for {lacks}; {remedy}")


def _merge(source: Source, row: Row) -> Source:
    """The source with what a row knows of it."""

    def known(name: str) -> str:
        return one_line(row.get(name) or "") or str(getattr(source, name))

    return replace(
        source,
        id=row.get("id") or source.id,
        speaker=known("speaker"),
        chapter=known("chapter"),
        sex=known("sex"),
        subset=known("subset"),
        text=row.get("text") or source.text,
    )
