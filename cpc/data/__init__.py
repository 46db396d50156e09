"""Packed corpora: packing, reading by memory map, labels, splits, and the windows that training sees."""
