"""What is known about audio files: from their paths, LibriSpeech's text files beside them, and a table."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cpc.config import InputError
from cpc.corpus import Source
from cpc.corpus.shards import printable

_LIBRI = re.compile(r"(?P<speaker>[^-]+)-(?P<chapter>[^-]+)-[^-]+")
_GROUPS = ("speaker", "chapter", "sex", "subset")
Row = dict[str, str]


def describe(files: list[Path], root: Path) -> Iterator[Source]:
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


def name_by_pattern(sources: list[Source], pattern: re.Pattern[str], root: Path) -> list[Source]:
    """What a pattern finds in the files' paths below `root` overrules what else is known.

    Raises InputError, with counts and examples, if it finds no speaker in some of them.
    """
    paths = [printable(source.path.relative_to(root).as_posix()) for source in sources]
    found = [pattern.search(path) for path in paths]
    without = [path for path, match in zip(paths, found, strict=True) if not (match and match["speaker"])]
    if without:
        counts = f"finds no speaker in {len(without)} of {len(paths)} files, for example {', '.join(without[:3])}"
        remedy = "give a pattern that fits them too (this|that), or move them away"
        raise InputError(f"speaker-regex={pattern.pattern}: {counts}; {remedy}")
    return [_merge(source, match.groupdict("")) for source, match in zip(sources, found, strict=True) if match]


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


def read_table(table: Path) -> dict[str, Row]:
    """Rows of a TSV by id, without quoting; `gender` means `sex`. Raises InputError for bad or double ids."""
    if not table.is_file():
        raise InputError(f"table={table}: no such file")
    rows: dict[str, Row] = {}
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, restval="")
        if "id" not in (reader.fieldnames or ()):
            raise InputError(f"table={table}: its first line must name a column id, it names {reader.fieldnames}")
        for row in reader:
            if not row["id"] or row["id"] in rows:
                rule = "every row needs an id of its own"
                raise InputError(f"table={table}, line {reader.line_num}: id {row['id']!r}; {rule}")
            rows[row["id"]] = row | {"sex": row.get("sex") or row.get("gender") or ""}
    return rows


def join(
    sources: list[Source], rows: dict[str, Row], places: list[Path], need_speaker: bool = False
) -> tuple[list[Source], int, int]:
    """Let a table's rows overrule what the paths say: the sources, rows without a file, files without a row.

    A row belongs to the file at its `path` from one of `places`, else to the file whose stem is its id. Raises
    InputError, with counts and examples, for files whose speaker the table does not name, if it must.
    """
    paths = {os.path.realpath(place / row["path"]): row for row in rows.values() if row.get("path") for place in places}
    found = [paths.get(os.path.realpath(source.path)) or rows.get(source.path.stem) for source in sources]
    without = [source.path for source, row in zip(sources, found, strict=True) if not (row and row.get("speaker"))]
    if need_speaker and without:
        examples = ", ".join(printable(str(path)) for path in without[:3])
        rule = f"names no speaker for {len(without)} of {len(sources)} files, for example {examples}"
        raise InputError(f"table: {rule}; add rows with their path or id, or move these files away")
    joined = [_merge(source, row) if row else source for source, row in zip(sources, found, strict=True)]
    return joined, len(rows) - len({row["id"] for row in found if row}), found.count(None)


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
