"""One class map for the splits of a table-like data set (Parquet, hub), whose labels are numbers or text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isopatch.data.classmap import check_train_classes, class_name, match_classes
from isopatch.errors import UsageError


@dataclass(frozen=True)
class SplitTable:
    """The labels of one split as stored.

    labels: (N,) int64. names: what each number is called, or None for bare numbers.
    declared: the names come with the data set (a class may have no rows), not from the rows themselves.
    """

    labels: NDArray[np.int64]
    names: tuple[str, ...] | None
    declared: bool
    where: str


def assemble(
    tables: dict[str, SplitTable],
) -> tuple[tuple[str, ...], dict[str, NDArray[np.int64]], list[str]]:
    """Return (classes, labels by role, notes) for the splits in `tables` (train or pool, val, test).

    Classes come from train (or the pool): declared names in their declared order, text sorted, bare numbers
    in ascending order. Other splits are matched by name. A val or test split in which every label is
    negative (the hub's way of withholding them) is left out with a note.
    """
    notes: list[str] = []
    named: dict[str, tuple[tuple[str, ...], NDArray[np.int64]]] = {}
    for role, table in tables.items():
        if not len(table.labels):
            raise UsageError(f"{table.where}: the {role} split has no rows")
        if role in ("val", "test") and (table.labels < 0).all():
            notes.append(f"{role}: its labels are withheld (all negative), so it was left out.")
            continue
        named[role] = _name_labels(table, role)
    base = next((role for role in ("train", "pool") if role in named), None)
    if base is not None:
        classes = _train_classes(tables[base], *named[base], notes)
    else:
        classes = tuple(sorted({name for names, labels in named.values() for name in _used(names, labels)}))
    result: dict[str, NDArray[np.int64]] = {}
    for role, (names, labels) in named.items():
        mapping, missing = match_classes(classes, _counts(names, labels), tables[role].where, role)
        if role != base and base is not None:
            notes += missing
        result[role] = mapping[labels]
    return classes, result, notes


def _name_labels(table: SplitTable, role: str) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return class names in order and labels that index into them."""
    labels = table.labels
    if table.names is None:
        numbers, inverse = np.unique(labels, return_inverse=True)
        if numbers[0] < 0:
            raise UsageError(f"{table.where}: the {role} split has the label {numbers[0]}; labels start at 0")
        return tuple(str(n) for n in numbers.tolist()), inverse.astype(np.int64)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(table.names):
        raise UsageError(
            f"{table.where}: the {role} split has the label {low if low < 0 else high}, "
            f"but the class names are numbered 0..{len(table.names) - 1}"
        )
    names = tuple(class_name(name, table.where) for name in table.names)
    if len(set(names)) != len(names):
        raise UsageError(f"{table.where}: two classes have the same name")
    if table.declared:
        return names, labels
    order = sorted(range(len(names)), key=names.__getitem__)  # text labels: numbered as first seen
    rank = np.empty(len(names), dtype=np.int64)
    rank[order] = np.arange(len(names))
    return tuple(names[i] for i in order), rank[labels]


def _train_classes(
    table: SplitTable, names: tuple[str, ...], labels: NDArray[np.int64], notes: list[str]
) -> tuple[str, ...]:
    counts = _counts(names, labels)
    absent = [name for name, count in counts.items() if not count]
    if absent and table.declared:
        # The data set numbers its classes itself: keep its numbering, and say what cannot be learnt.
        named = ", ".join(f"'{name}'" for name in absent[:5])
        notes.append(f"train has no pictures of class {named}: it cannot be learnt.")
        check_train_classes({name: count for name, count in counts.items() if count}, table.where)
        return names
    return check_train_classes(counts, table.where)


def _counts(names: tuple[str, ...], labels: NDArray[np.int64]) -> dict[str, int]:
    return dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))


def _used(names: tuple[str, ...], labels: NDArray[np.int64]) -> list[str]:
    return [name for name, count in _counts(names, labels).items() if count]
