"""Cutting a part of a data set off by a seed: stratified, reproducible, independent of library versions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def stratified_cut(labels: Indices, fraction: float, seed: int, *, purpose: str) -> tuple[Indices, Indices]:
    """Return (kept, cut): sorted indices that part `labels` so that `cut` holds `fraction` of every class.

    A class of n pictures gives round(fraction * n), at least 1 where n >= 2, and always keeps one. The
    choice depends on (seed, purpose, position in `labels`) alone; `purpose` keeps two cuts of one data set
    independent. The order comes from an integer hash, not from a library's random generator, whose stream
    may change with its version.
    """
    key = _hash(np.array([seed % 2**64], dtype=np.uint64) ^ _text_key(purpose))
    priority = _hash(np.arange(len(labels), dtype=np.uint64) ^ key)
    order = np.lexsort((priority, labels))  # class by class, each in random order
    cut: list[Indices] = []
    start = 0
    for count in np.unique(labels, return_counts=True)[1].tolist():
        taken = int(fraction * count + 0.5)
        if fraction > 0:
            taken = max(taken, 1)
        taken = min(taken, count - 1)
        cut.append(order[start : start + taken])
        start += count
    chosen = np.zeros(len(labels), dtype=bool)
    if cut:
        chosen[np.concatenate(cut)] = True
    return np.flatnonzero(~chosen).astype(np.int64), np.flatnonzero(chosen).astype(np.int64)


def nested_share(labels: Indices, numbers: Indices, fraction: float, seed: int) -> Indices:
    """Return sorted positions in `labels` that hold `fraction` of every class, nested in the fraction.

    numbers: (N,) what a picture is called in the whole source; the choice depends on (seed, its number) and
    on how many its class has. For one seed a larger fraction contains every smaller one, since both take the
    first of one order. A class of n pictures gives round(fraction * n), at least 1.
    """
    key = _hash(np.array([seed % 2**64], dtype=np.uint64) ^ _text_key("fraction"))
    order = np.lexsort((_hash(numbers.astype(np.uint64) ^ key), labels))  # class by class, in random order
    taken: list[Indices] = []
    start = 0
    for count in np.unique(labels, return_counts=True)[1].tolist():
        taken.append(order[start : start + max(1, int(fraction * count + 0.5))])
        start += count
    chosen = np.concatenate(taken) if taken else np.zeros(0, dtype=np.int64)
    return np.sort(chosen).astype(np.int64)


def _text_key(text: str) -> NDArray[np.uint64]:
    return np.array([int.from_bytes(text.encode()[:8], "little")], dtype=np.uint64)


def _hash(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix 64-bit integers: the output function of SplitMix64 (Steele, Lea, Flood 2014)."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is the point
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
