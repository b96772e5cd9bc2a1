"""Measuring ourselves and the peers: all of them in one process, in turn."""
