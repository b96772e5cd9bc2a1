"""`isopatch data check`: read every picture of every split and report what is there."""

from __future__ import annotations

import os
import statistics
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from isopatch.data.examine import Inventory, Item, Verdict, examine, take_inventory
from isopatch.image.decode import MAX_PIXELS

_WINDOW = 256  # pictures handed to the threads at once


def check_data(source: str | Path, *, max_pixels: int = MAX_PIXELS) -> dict[str, Any]:
    """Read every picture of `source` and return what was found, as plain JSON values.

    `readable`, `unreadable`: counts over all splits; they add up to `pictures`. `splits`: per split the same
    counts, class balance, and `imbalance` (largest class over smallest). `sizes`: pixels of the upright
    pictures. `formats`, `modes`: as stored. `unreadable_files`: each with its reason. `duplicates`: groups
    of files with equal content, with `across_splits` and `labels_differ`. `remarks`: readable pictures that
    look wrong. `problem`: the line with which training would refuse this data, or None. For a folder, every
    file with a picture's extension counts, in class folders or not; pictures in formats that are not read
    (HEIC, ...) count as unreadable; files of other kinds are counted in `ignored_files`.
    Raises `UsageError` where there is no such data.
    """
    inventory = take_inventory(source, max_pixels=max_pixels)
    tally = _Tally(inventory)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for window in _windows(inventory.items()):
            verdicts = pool.map(lambda item: examine(item, max_pixels=max_pixels), window)
            for item, verdict in zip(window, verdicts, strict=True):
                tally.add(item, verdict)
    return tally.report(str(source))


def _windows(items: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(items)
    while window := list(islice(iterator, _WINDOW)):
        yield window


class _Tally:
    """Counts so far; per readable picture it keeps two numbers, a digest and (split, class, name)."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self._counts = {split: Counter(dict.fromkeys(names, 0)) for split, names in inventory.classes.items()}
        self._readable: Counter[str] = Counter()
        self._unreadable: Counter[str] = Counter()
        self._heights, self._widths = array("l"), array("l")
        self._formats: Counter[str] = Counter()
        self._modes: Counter[str] = Counter()
        self._digests = bytearray()
        self._files: list[tuple[str, str | None, str]] = []
        self._bad: list[dict[str, Any]] = []
        self._remarks: list[dict[str, Any]] = []

    def add(self, item: Item, verdict: Verdict) -> None:
        where = {"split": item.split, "class": item.label, "file": item.name}
        if verdict.reason is not None:
            self._unreadable[item.split] += 1
            self._bad.append({**where, "reason": verdict.reason})
            return
        self._readable[item.split] += 1
        if item.label is not None:
            self._counts[item.split][item.label] += 1
        self._heights.append(verdict.height)
        self._widths.append(verdict.width)
        self._formats[verdict.format] += 1
        self._modes[verdict.mode] += 1
        self._digests += verdict.sha256
        self._files.append((item.split, item.label, item.name))
        if verdict.remark is not None:
            self._remarks.append({**where, "remark": verdict.remark})

    def report(self, source: str) -> dict[str, Any]:
        duplicates = self._duplicates()
        readable, unreadable = self._readable.total(), self._unreadable.total()
        return {
            "source": source,
            "pictures": readable + unreadable,
            "readable": readable,
            "unreadable": unreadable,
            "splits": {split: self._split(split, counts) for split, counts in self._counts.items()},
            "sizes": {"height": _spread(self._heights), "width": _spread(self._widths)},
            "formats": dict(self._formats.most_common()),
            "modes": dict(self._modes.most_common()),
            "unreadable_files": self._bad,
            "duplicates": duplicates,
            "duplicates_within_splits": sum(not group["across_splits"] for group in duplicates),
            "duplicates_across_splits": sum(group["across_splits"] for group in duplicates),
            "remarks": self._remarks,
            "ignored_files": dict(self._inventory.ignored.most_common()),
            "hidden_files": self._inventory.hidden,
            "notes": list(self._inventory.notes),
            "problem": self._inventory.problem,
        }

    def _split(self, split: str, counts: Counter[str]) -> dict[str, Any]:
        present = [n for n in counts.values() if n]
        return {
            "readable": self._readable[split],
            "unreadable": self._unreadable[split],
            "classes": dict(counts),
            "imbalance": max(present) / min(present) if present else None,
        }

    def _duplicates(self) -> list[dict[str, Any]]:
        """Groups of pictures with one SHA-256, in order of their first member."""
        if not self._files:
            return []
        digests = np.frombuffer(bytes(self._digests), dtype="V32")
        _, inverse, counts = np.unique(digests, return_inverse=True, return_counts=True)
        groups: dict[int, list[int]] = {}
        for index in np.flatnonzero(counts[inverse] > 1).tolist():
            groups.setdefault(int(inverse[index]), []).append(index)
        result = []
        for members in groups.values():
            files = [self._files[index] for index in members]
            result.append(
                {
                    "files": [{"split": s, "class": c, "file": name} for s, c, name in files],
                    "across_splits": len({split for split, _, _ in files}) > 1,
                    "labels_differ": len({label for _, label, _ in files}) > 1,
                }
            )
        return result


def _spread(values: array[int]) -> dict[str, float] | None:
    if not values:
        return None
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}
