"""ABX: how well features tell phones apart, without training anything on them."""

from cpc.evaluation.abx.items import (
    FeatureStore,
    Items,
    corpus_banks,
    corpus_items,
    folder_bank,
    read_items,
    write_items,
)
from cpc.evaluation.abx.task import ABXResult, ABXTask, abx

__all__ = [
    "ABXResult",
    "ABXTask",
    "FeatureStore",
    "Items",
    "abx",
    "corpus_banks",
    "corpus_items",
    "folder_bank",
    "read_items",
    "write_items",
]
