"""The cells of a study: combinations of one level per factor."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator

from isopatch.study.schema import Levels, Study, named

LONGEST_SLUG = 90  # a file name holds 255 bytes, and claims and checkpoints add to it


def cells(study: Study) -> list[Levels]:
    """Return the study's cells: those listed, else the full product, less the excluded ones."""
    return [
        cell for cell in all_cells(study) if not any(matches(cell, named(part)) for part in study.exclude)
    ]


def all_cells(study: Study) -> list[Levels]:
    """Return the cells before any is excluded; a study without factors has one."""
    if study.cells is not None:
        return [named(cell) for cell in study.cells]
    names = list(study.factor_levels)
    product = itertools.product(*(study.factor_levels[name] for name in names))
    return [dict(zip(names, levels, strict=True)) for levels in product]


def matches(cell: Levels, part: Levels) -> bool:
    """Return whether a cell has all the levels of a part."""
    return all(cell.get(factor) == level for factor, level in part.items())


def slug(cell: Levels) -> str:
    """Return the cell's name in file names: "kernel-size-5_stem-patch"; "base" without factors."""
    text = "_".join(_plain(f"{factor}-{level}") for factor, level in cell.items()) or "base"
    if len(text) <= LONGEST_SLUG:
        return text
    return f"{text[: LONGEST_SLUG - 9]}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


def slugs(wanted: list[Levels]) -> list[str]:
    """Return a name for each cell, all different: levels that differ in odd characters alone get a number."""
    taken: set[str] = set()
    return [_free(slug(cell), taken) for cell in wanted]


def _free(name: str, taken: set[str]) -> str:
    for candidate in _numbered(name):
        if candidate not in taken:
            taken.add(candidate)
            return candidate
    raise AssertionError("there are always more numbers")


def _numbered(name: str) -> Iterator[str]:
    yield name
    for number in itertools.count(2):
        yield f"{name}.{number}"


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")
