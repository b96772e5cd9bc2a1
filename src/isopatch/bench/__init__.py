"""Measure models and data side by side with the peers: the same work, one process, in turn."""
