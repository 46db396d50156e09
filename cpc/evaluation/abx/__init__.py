"""ABX: how well features tell phones apart, without training anything on them."""

from cpc.evaluation.abx.bank import Bank, corpus_banks, folder_bank
from cpc.evaluation.abx.items import Items, corpus_items, read_items, write_items
from cpc.evaluation.abx.result import ABXResult
from cpc.evaluation.abx.task import Task, abx

__all__ = [
    "ABXResult",
    "Bank",
    "Items",
    "Task",
    "abx",
    "corpus_banks",
    "corpus_items",
    "folder_bank",
    "read_items",
    "write_items",
]
