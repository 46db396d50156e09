"""The same work many times over: sweeps."""
