"""Probes: what a simple classifier reads off frozen features."""
