"""The class map: names and their order come from train; every other split is matched to it by name.

A class folder never gets its number from its position among the folders of its own split, so an empty,
missing or extra folder in val or test cannot shift a label.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from isopatch.errors import UsageError, nearest


def class_name(folder: str, where: str) -> str:
    """Return the class name a folder (or label) stands for: its name in Unicode's composed form (NFC).

    Raises `UsageError` for a name that cannot be shown: undecodable bytes or control characters.
    """
    name = unicodedata.normalize("NFC", folder)
    if not name.isprintable() or not name.strip():
        raise UsageError(
            f"{where}: the class name {folder!a} is not printable text; rename it in plain UTF-8"
        )
    return name


def check_train_classes(counts: Mapping[str, int], where: str) -> tuple[str, ...]:
    """Return train's class names in their given order; each must hold pictures, and two are the least.

    counts: class name -> number of pictures, in the order of the labels.
    """
    empty = [name for name, count in counts.items() if count == 0]
    if empty:
        raise UsageError(
            f"{where}: no pictures of class {_list(empty)}: add pictures or remove "
            f"{'it' if len(empty) == 1 else 'them'}"
        )
    if len(counts) < 2:
        only = f"only class {_list(list(counts))}" if counts else "no class with pictures"
        raise UsageError(f"{where}: {only}; a classifier needs pictures of at least two classes")
    return tuple(counts)


def match_classes(
    train: Sequence[str], found: Mapping[str, int], where: str, split: str
) -> tuple[NDArray[np.int64], list[str]]:
    """Match another split's classes to train's by name.

    found: class name -> number of pictures, in that split's own numbering.
    Returns (mapping, notes): mapping[own number] is train's number, or -1 for an unknown name without
    pictures. Raises `UsageError` naming a class that has pictures and is not in train.
    """
    number = {name: i for i, name in enumerate(train)}
    notes: list[str] = []
    mapping = np.full(len(found), -1, dtype=np.int64)
    for own, (name, count) in enumerate(found.items()):
        if name in number:
            mapping[own] = number[name]
        elif count:
            raise UsageError(f"{where}: class '{name}' is not among train's classes{_hint(name, train)}")
        else:
            notes.append(f"{split}: the class '{name}', unknown to train, holds no pictures and was ignored.")
    absent = [name for name in train if not found.get(name)]
    if absent:
        notes.append(f"{split} has no pictures of class {_list(absent)}: nothing is measured there.")
    return mapping, notes


def _hint(name: str, known: Sequence[str]) -> str:
    for other in known:
        if other.casefold() == name.casefold():
            return f": train writes it '{other}', and upper and lower case differ; rename one of them"
    return nearest(name, known)


def _list(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
