"""Packed corpora: pack audio once, then read it by memory map with its labels and splits."""

from cpc.corpus.alignment import AlignedRow, Alignment, read_cpc_phones, write_alignment
from cpc.corpus.corpus import Corpus
from cpc.corpus.pack import PackReport, pack
from cpc.corpus.shards import read_ids
from cpc.corpus.source import Source
from cpc.corpus.splits import Overlap, has_speaker, hold_out, overlap, write_split

__all__ = [
    "AlignedRow",
    "Alignment",
    "Corpus",
    "Overlap",
    "PackReport",
    "Source",
    "has_speaker",
    "hold_out",
    "overlap",
    "pack",
    "read_cpc_phones",
    "read_ids",
    "write_alignment",
    "write_split",
]
