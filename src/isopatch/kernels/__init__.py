"""Faster twins of modules: same parameters, names and results. `swap` puts them in and takes them out."""

from __future__ import annotations

from isopatch.kernels.swap import Replacement, Swapped, swap

__all__ = ["Replacement", "Swapped", "swap"]
