"""What an ABX session is about: items, and the utterances of a corpus that they are in."""

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from cpc.config import InputError
from cpc.corpus import Corpus, has_speaker
from cpc.evaluation.abx.items import Items, Unit, corpus_items, read_items


@dataclass(frozen=True)
class Material:
    """`rows` of the corpus are those that have items. `unit` is "items" where they were read from a file,
    and `labels` the alignment where they were not."""

    corpus: Corpus
    rows: Int64[np.ndarray, " utterance"]
    items: Items
    unit: str
    split: str
    notes: tuple[str, ...] = ()
    labels: str = "phones"

    @property
    def digest(self) -> str:
        """A hash of the items and of the audio."""
        digest = hashlib.sha256(self.corpus.digest.encode())
        for field in fields(self.items):
            digest.update("\n".join(map(str, getattr(self.items, field.name).tolist())).encode())
        return digest.hexdigest()


def aligned_material(corpus: Corpus, unit: Unit, split: str | None = None, labels: str = "phones") -> Material:
    """Items from the alignment of a corpus: of all of it, or of a split, a file of ids, or one of its subsets.

    Raises InputError for an unknown split and where no items can be made.
    """
    rows = _rows(corpus, split)
    items = corpus_items(corpus, rows, unit, labels)
    alignment = corpus.labels(labels)
    missing = sum(corpus.ids[row] not in alignment for row in rows.tolist())
    notes: tuple[str, ...] = (f"{missing} of {len(rows)} utterances have no labels: left out.",) if missing else ()
    if nobody := int(np.count_nonzero(~has_speaker(corpus, rows))):
        notes += (f"{nobody} of {len(rows)} utterances have no known speaker: left out.",)
    return Material(corpus, _used(corpus, items), items, unit, split or "", notes)


def listed_material(corpus: Corpus, file: Path) -> Material:
    """Items of an `.item` file whose files are ids of the corpus. Raises InputError for ids that it does not have."""
    items = read_items(file)
    return Material(corpus, _used(corpus, items), items, "items", file.stem)


def _rows(corpus: Corpus, split: str | None) -> Int64[np.ndarray, " utterance"]:
    if split is None:
        return np.arange(len(corpus))
    if split in corpus.subsets and split not in corpus.splits():
        return np.flatnonzero(np.array(corpus.subsets) == split)
    try:
        return np.unique(corpus.rows(split))
    except InputError as error:
        subsets = ", ".join(sorted(set(corpus.subsets) - {""}))
        raise InputError(f"{error}" + (f" (subsets: {subsets})" if subsets else "")) from None


def _used(corpus: Corpus, items: Items) -> Int64[np.ndarray, " utterance"]:
    return np.unique(corpus.rows(np.unique(items.files).tolist()))
