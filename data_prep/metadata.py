"""What is known about audio files: from their paths, LibriSpeech's text files beside them, and a table."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cpc.config import InputError
from cpc.corpus import Source
from cpc.corpus.shards import printable

_LIBRI = re.compile(r"(?P<speaker>[^-]+)-(?P<chapter>[^-]+)-[^-]+")
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
    id = printable(file.relative_to(root).with_suffix("").as_posix().replace("/", "-"))
    return Source(id, file, printable(file.absolute().parent.name), text=text)


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


def join(sources: list[Source], rows: dict[str, Row], places: list[Path]) -> tuple[list[Source], int, int]:
    """Let a table's rows overrule what the paths say: the sources, rows without a file, files without a row.

    A row belongs to the file at its `path` from one of `places`, else to the file whose stem is its id.
    """
    paths = {(place / row["path"]).resolve(): row for row in rows.values() if row.get("path") for place in places}
    found = [paths.get(source.path.resolve()) or rows.get(source.path.stem) for source in sources]
    joined = [_merge(source, row) if row else source for source, row in zip(sources, found, strict=True)]
    return joined, len(rows) - len({row["id"] for row in found if row}), found.count(None)


def _merge(source: Source, row: Row) -> Source:
    def known(name: str) -> str:
        return row.get(name) or str(getattr(source, name))

    return replace(
        source,
        id=row["id"],
        speaker=known("speaker"),
        chapter=known("chapter"),
        sex=known("sex"),
        subset=known("subset"),
        text=known("text"),
    )
