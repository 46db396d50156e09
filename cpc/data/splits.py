"""Splits of a corpus: lists of ids, or drawn deterministically; what is in them, and what two of them share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

from cpc.config import InputError
from cpc.data.corpus import Corpus
from cpc.data.remote import refuse_copy
from cpc.io import write_text


class Overlap(NamedTuple):
    """How many utterances, speakers and chapters two sets of rows share; unknown speakers and chapters do not count."""

    utterances: int
    speakers: int
    chapters: int


class Extent(NamedTuple):
    """How much a set of rows holds; speakers and chapters as far as they are known."""

    utterances: int
    seconds: float
    speakers: int
    chapters: int


class HeldOut(NamedTuple):
    """Rows to train on, rows held out, and rows that could be on neither side."""

    train: Int[ndarray, " train"]
    test: Int[ndarray, " test"]
    left_out: Int[ndarray, " left"]


def write_split(corpus_dir: Path, name: str, ids: Iterable[str]) -> None:
    """Write splits/NAME.txt. Raises InputError for the copy of a corpus at a URL."""
    refuse_copy(Path(corpus_dir))
    write_text(Path(corpus_dir) / "splits" / f"{name}.txt", "".join(f"{id}\n" for id in ids))


def read_splits(corpus: Corpus) -> tuple[dict[str, Int[ndarray, " _"]], dict[str, str]]:
    """Rows of every split of the corpus, and what is wrong with those that cannot be used."""
    rows, broken = {}, {}
    for name in corpus.splits():
        try:
            rows[name] = corpus.rows(name)
        except InputError as error:
            broken[name] = str(error)
        except UnicodeDecodeError:
            broken[name] = f"split={name}: is no list of ids in UTF-8"
    return rows, broken


def has_speaker(corpus: Corpus, rows: Int[ndarray, " row"]) -> Bool[ndarray, " row"]:
    """Which rows have a known speaker: an utterance without one is nobody's, not everybody's."""
    names, speaker = corpus.groups("speaker")
    known: Bool[ndarray, " row"] = np.array([name != "" for name in names])[speaker[np.asarray(rows)]]
    return known


def hold_out(
    corpus: Corpus,
    share: float,
    seed: int,
    by: Literal["speaker", "chapter", "utterance"] = "speaker",
    rows: Int[ndarray, " row"] | None = None,
) -> tuple[Int[ndarray, " train"], Int[ndarray, " held"]]:
    """Rows (of `rows`, or of all) to train on and rows held out: about `share` of their groups.

    Groups are ranked by a hash of `seed` and their name, and the first `share` of them are held out, at least
    one on each side: a speaker more in the corpus moves few others. Rows whose speaker is not known are on neither
    side of speakers. Raises InputError for only one group.
    """
    among = np.arange(len(corpus)) if rows is None else np.asarray(rows)
    if by == "speaker":
        among = among[has_speaker(corpus, among)]
    names, groups = _groups(corpus, by)
    present, group = np.unique(groups[among], return_inverse=True)
    if len(present) < 2:
        raise InputError(f"by={by}: {corpus.path} has only {len(present)} {by}; hold out by something finer")
    held = _draw([names[code] for code in present.tolist()], np.zeros_like(present), share, seed)[group]
    return among[~held], among[held]


def hold_out_within(
    corpus: Corpus,
    share: float,
    seed: int,
    by: Literal["chapter", "utterance"] = "utterance",
    rows: Int[ndarray, " row"] | None = None,
) -> HeldOut:
    """The same within each speaker: all speakers on both sides, no utterance (or no chapter) on both.

    Of every speaker about `share` of the utterances or chapters are held out, at least one and never all; who has
    only one, or is not known, is left out of both sides. Raises InputError if that is everyone.
    """
    among = np.arange(len(corpus)) if rows is None else np.asarray(rows)
    names, groups = _groups(corpus, by)
    _, speakers = corpus.groups("speaker")
    present, first, group = np.unique(groups[among], return_index=True, return_inverse=True)
    _, speaker = np.unique(speakers[among][first], return_inverse=True)
    alone = (np.bincount(speaker) < 2)[speaker][group] | ~has_speaker(corpus, among)
    if alone.all():
        raise InputError(f"by={by}: no speaker of {corpus.path} has two {by}s; hold out by something finer")
    held = _draw([names[code] for code in present.tolist()], speaker, share, seed)[group] & ~alone
    return HeldOut(among[~held & ~alone], among[held], among[alone])


def _draw(names: Sequence[str], strata: Int[ndarray, " group"], share: float, seed: int) -> Bool[ndarray, " group"]:
    """Which groups are held out: the first `share` of each stratum by a hash of their names."""
    if not 0 < share < 1:
        raise InputError(f"share={share}: must lie between 0 and 1")
    hashes = b"".join(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8] for name in names)
    order = np.lexsort((np.frombuffer(hashes, ">u8"), strata))
    sizes = np.bincount(strata)
    counts = np.clip(np.round(share * sizes), 1, np.maximum(sizes - 1, 1))
    rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    held = np.zeros(len(order), bool)
    held[order] = rank < counts[strata[order]]
    return held


def _groups(corpus: Corpus, by: str) -> tuple[list[str], Int[ndarray, " row"]]:
    """Names of the groups, and the group of each row."""
    if by == "utterance":
        return corpus.ids, np.arange(len(corpus))
    return corpus.groups("speaker") if by == "speaker" else _sessions(corpus)


def _sessions(corpus: Corpus) -> tuple[list[str], Int[ndarray, " row"]]:
    """Chapters as speaker/chapter: a chapter number may be one speaker's alone or shared by a whole book."""
    speakers, speaker = corpus.groups("speaker")
    chapters, chapter = corpus.groups("chapter")
    pairs, session = np.unique(speaker * len(chapters) + chapter, return_inverse=True)
    places = np.stack(np.divmod(pairs, len(chapters)), axis=1).tolist()
    return [f"{speakers[one]}/{chapters[other]}" for one, other in places], session


def overlap(corpus: Corpus, rows_a: Int[ndarray, " a"], rows_b: Int[ndarray, " b"]) -> Overlap:
    """What two sets of rows have in common: the leak to speak of before a number is believed."""
    return overlaps(corpus, {"a": rows_a, "b": rows_b})["a", "b"]


def overlaps(corpus: Corpus, splits: Mapping[str, Int[ndarray, " _"]]) -> dict[tuple[str, str], Overlap]:
    """What any two of the splits have in common."""
    kinds = _kinds(corpus)
    present = {name: [_present(kind, rows) for kind in kinds] for name, rows in splits.items()}
    return {
        (one, other): Overlap(*(int((a & b).sum()) for a, b in zip(present[one], present[other], strict=True)))
        for one, other in combinations(splits, 2)
    }


def extents(corpus: Corpus, splits: Mapping[str, Int[ndarray, " _"]]) -> dict[str, Extent]:
    """How much each of the splits holds."""
    kinds = _kinds(corpus)
    found = {}
    for name, rows in splits.items():
        utterances, speakers, chapters = (_present(kind, rows) for kind in kinds)
        seconds = float(corpus.samples[utterances[:-1]].sum()) / corpus.sample_rate
        found[name] = Extent(int(utterances.sum()), seconds, int(speakers.sum()), int(chapters.sum()))
    return found


def _kinds(corpus: Corpus) -> tuple[ndarray, ndarray, ndarray]:
    """Utterance, speaker and chapter of each row as numbers, −1 where unknown."""
    (names, speaker), (numbers, chapter) = corpus.groups("speaker"), corpus.groups("chapter")
    named = np.array([name != "" for name in names])[speaker]
    numbered = np.array([number != "" for number in numbers])[chapter]
    return np.arange(len(corpus)), np.where(named, speaker, -1), np.where(numbered, _sessions(corpus)[1], -1)


def _present(kind: Int[ndarray, " row"], rows: Int[ndarray, " _"]) -> Bool[ndarray, " values"]:
    """Which values of a kind the rows have; the last place stands for the unknown one, which is never present."""
    present = np.zeros(kind.max(initial=-1) + 2, bool)
    present[kind[rows]] = True
    present[-1] = False
    return present
