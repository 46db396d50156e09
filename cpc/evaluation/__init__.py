"""Evaluation: frozen features, linear probes, embedding, and the comparison of experiments."""
