"""Measure models side by side with other runtimes: same weights, same pictures, one process, in turn."""
