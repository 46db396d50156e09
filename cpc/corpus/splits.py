"""Splits of a corpus: lists of ids, or drawn deterministically; and what two of them share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from cpc.config import InputError
from cpc.corpus.corpus import Corpus
from cpc.files import write_text


class Overlap(NamedTuple):
    """How many utterances, speakers and chapters two sets of rows share."""

    utterances: int
    speakers: int
    chapters: int


def write_split(corpus_dir: Path, name: str, ids: Iterable[str]) -> None:
    """Write splits/NAME.txt."""
    write_text(Path(corpus_dir) / "splits" / f"{name}.txt", "".join(f"{id}\n" for id in ids))


def hold_out(
    corpus: Corpus,
    share: float,
    seed: int,
    by: Literal["speaker", "chapter", "utterance"] = "speaker",
    rows: Int[ndarray, " row"] | None = None,
) -> tuple[Int[ndarray, " train"], Int[ndarray, " held"]]:
    """Rows (of `rows`, or of all) to train on and rows held out: about `share` of their groups.

    Groups are ranked by a hash of `seed` and their name, and the first `share` of them are held out, at least
    one on each side: a speaker more in the corpus moves few others. Raises InputError for only one group.
    """
    if not 0 < share < 1:
        raise InputError(f"share={share}: must lie between 0 and 1")
    among = np.arange(len(corpus)) if rows is None else np.asarray(rows)
    groups = np.array({"speaker": corpus.speakers, "chapter": _chapters(corpus), "utterance": corpus.ids}[by])[among]
    names = sorted(set(groups.tolist()), key=lambda name: _draw(name, seed))
    if len(names) < 2:
        raise InputError(f"by={by}: {corpus.path} has only {len(names)} {by}; hold out by something finer")
    count = min(max(round(share * len(names)), 1), len(names) - 1)
    held = np.isin(groups, names[:count])
    return among[~held], among[held]


def _draw(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def _chapters(corpus: Corpus) -> list[str]:
    """Chapters as speaker/chapter: a chapter number may be one speaker's alone or shared by a whole book."""
    return [f"{speaker}/{chapter}" for speaker, chapter in zip(corpus.speakers, corpus.chapters, strict=True)]


def overlap(corpus: Corpus, rows_a: Int[ndarray, " a"], rows_b: Int[ndarray, " b"]) -> Overlap:
    """What two sets of rows have in common: the leak to speak of before a number is believed."""
    columns = (corpus.ids, corpus.speakers, _chapters(corpus))
    shared = [len({names[row] for row in rows_a} & {names[row] for row in rows_b}) for names in columns]
    return Overlap(*shared)
