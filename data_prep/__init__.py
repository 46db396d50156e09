"""Runnable modules that touch the outside world: they turn audio into packed corpora."""
