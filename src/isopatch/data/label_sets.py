"""Several right answers for a picture: label files such as ReaL's (Beyer et al. 2020), matched to pictures.

Two forms of JSON are read. A list of lists of class numbers (ReaL's real.json): entry i is of the ImageNet
validation picture number i + 1, which the file's name tells (ILSVRC2012_val_00000001.JPEG, or with the
class behind the number: ..._00000001_n01440764.JPEG). Or an object, file name -> list of class numbers or
names. An empty list says that nobody can tell what the picture shows. A row of Parquet or of the hub goes by
the name of its file, where the row kept it (`path`).
Numbers count classes as ImageNet does, WordNet ids in alphabetical order, where the classes are WordNet ids;
otherwise they are the model's outputs.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isopatch.data.source import ImageSource, file_name_of
from isopatch.errors import IsopatchError, UsageError, nearest

WORDNET_ID = re.compile(r"n\d{8}")
_VALIDATION = re.compile(r"_val_0*(\d+)(_n\d{8})?(\.|$)")


def read_label_sets(file: Path, source: ImageSource, classes: Sequence[str]) -> list[frozenset[int]]:
    """Return for each picture of `source` the indices into `classes` that are right; empty: not counted.

    Raises UsageError where a picture has no entry, or an entry no class; IsopatchError for a damaged file.
    """
    if not file.is_file():
        raise UsageError(f"--labels {file}: no such file")
    try:
        held = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise IsopatchError(f"--labels {file}: damaged or no JSON ({error})") from None
    table = _Classes(file, classes)
    if isinstance(held, list):
        places = [_place(file, _file_name(file, source, i), held) for i in range(len(source))]
        return [table.numbers(held[place], i) for i, place in enumerate(places)]
    if isinstance(held, dict):
        sets = []
        names = [_file_name(file, source, index) for index in range(len(source))]
        twice = next((name for name, number in Counter(names).items() if number > 1), None)
        if twice is not None:
            raise UsageError(
                f"--labels {file}: two pictures are called {twice}, and entries are found by that name; "
                f"give every picture a name of its own"
            )
        for index, name in enumerate(names):
            if name not in held:
                raise UsageError(
                    f"--labels {file}: has no entry for {name}{nearest(name, list(held)[:2000])}"
                )
            sets.append(table.numbers(held[name], index))
        return sets
    raise UsageError(f"--labels {file}: expected a list of lists, or an object from file names to lists")


def imagenet_order(classes: Sequence[str]) -> list[int] | None:
    """Return class number -> index into `classes` as ImageNet counts; None where they are no WordNet ids."""
    if not all(WORDNET_ID.fullmatch(name) for name in classes):
        return None
    return sorted(range(len(classes)), key=lambda index: classes[index])


class _Classes:
    """From what a label file writes to indices of classes."""

    def __init__(self, file: Path, classes: Sequence[str]) -> None:
        self._file, self._number_of = file, {name: index for index, name in enumerate(classes)}
        order = imagenet_order(classes)
        self._order = list(range(len(classes))) if order is None else order

    def numbers(self, entry: Any, index: int) -> frozenset[int]:
        if not isinstance(entry, list):
            raise UsageError(f"--labels {self._file}: entry {index} is no list but {type(entry).__name__}")
        return frozenset(self._one(value) for value in entry)

    def _one(self, value: Any) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            if 0 <= value < len(self._order):
                return self._order[value]
            raise UsageError(
                f"--labels {self._file}: class number {value}, and the model has {len(self._order)} classes"
            )
        if isinstance(value, str) and value in self._number_of:
            return self._number_of[value]
        hint = nearest(value, self._number_of) if isinstance(value, str) else ""
        raise UsageError(f"--labels {self._file}: {value!r} is none of the model's classes{hint}")


def _file_name(file: Path, source: ImageSource, index: int) -> str:
    """Return the name by which a picture's entry is found, without its folders."""
    name = file_name_of(source, index)
    if name is None:
        raise UsageError(
            f"--labels {file}: entries are found by the pictures' file names, and {source.name(index)} has "
            f"none stored beside it; give the data as folders of files with ImageNet's names "
            f"(ILSVRC2012_val_00000001.JPEG)"
        )
    return os.path.basename(name)


def _place(file: Path, name: str, held: list[Any]) -> int:
    """Return which entry of a list belongs to a picture."""
    found = _VALIDATION.search(name)
    if found is None:
        raise UsageError(
            f"--labels {file}: a list is matched by the number of an ImageNet validation picture, which "
            f"{name} does not have; give an object from file names to lists, or the data as folders of files "
            f"with ImageNet's names"
        )
    number = int(found[1])
    if not 1 <= number <= len(held):
        raise UsageError(f"--labels {file}: has {len(held)} entries, none for {name}")
    return number - 1
