"""Where a model errs: confusion matrix, per-class figures and the pictures it was most wrongly sure of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isopatch.report.render import Picture, picture
from isopatch.report.run_files import section
from isopatch.report.wording import count, number, percent

MAX_HEAT_CLASSES = 30  # above, a heat map is unreadable: the most confused pairs are listed
MAX_PAIRS = 30
MAX_CLASSES_SHOWN = 30
MAX_PICTURES = 24


@dataclass(frozen=True)
class Cell:
    """One field of the heat map: its count, its share of the true class, and how it is painted."""

    count: int
    strength: float
    title: str


@dataclass(frozen=True)
class ClassRow:
    """One line of the per-class table, formatted. width: of the recall's bar, in percent."""

    name: str
    support: str
    recall: str
    width: float
    precision: str
    f1: str


@dataclass(frozen=True)
class Mistakes:
    """What the run page shows of one evaluation; each part may be empty.

    heat: (class name, cells) per true class. pairs: true, predicted, count, share of the true class.
    classes: the rows shown; all_classes: every row, where not all are shown.
    """

    heat: list[tuple[str, list[Cell]]]
    cell_size: int
    pairs: list[tuple[str, str, str, str]]
    classes: list[ClassRow]
    all_classes: list[ClassRow]
    pictures: list[Picture]
    flat_heads: bool


def find_mistakes(evaluation: dict[str, Any]) -> Mistakes:
    """Read one evaluation-<split>.json; parts that are absent or do not fit together are left out."""
    per_class = _dicts(evaluation.get("per_class"))
    names = [str(row.get("name", index)) for index, row in enumerate(per_class)]
    matrix = _matrix(evaluation.get("confusion"), len(names))
    small = 0 < len(names) <= MAX_HEAT_CLASSES
    rows = [_class_row(name, row) for name, row in zip(names, per_class, strict=True)]
    worst = sorted(range(len(rows)), key=lambda index: (_recall(per_class[index]), index))
    return Mistakes(
        heat=_heat(matrix, names) if matrix is not None and small else [],
        cell_size=46 if len(names) <= 12 else 34 if len(names) <= 20 else 27,
        pairs=_pairs(matrix, names) if matrix is not None and not small else [],
        classes=rows if small else [rows[index] for index in worst[:MAX_CLASSES_SHOWN]],
        all_classes=[] if small else rows,
        pictures=[picture(row) for row in _dicts(evaluation.get("mistakes"))[:MAX_PICTURES]],
        flat_heads=max((len(name) for name in names), default=0) <= 3,
    )


def heads_table(evaluation: dict[str, Any]) -> tuple[list[tuple[str, str, str]], str | None]:
    """Return (head, top-1, nll) of a model with several heads, and how often they agree."""
    heads = section(evaluation, "heads")
    rows = [
        (str(name), percent(values.get("top1")), f"{number(values.get('nll')) or 0:.4f}")
        for name, values in heads.items()
        if isinstance(values, dict)
    ]
    agreement = number(heads.get("agreement"))
    return rows, None if agreement is None else percent(agreement)


def calibration_bins(evaluation: dict[str, Any]) -> list[tuple[float, float, int]]:
    """Return (mean confidence, accuracy, pictures) of the bins that hold pictures."""
    found = []
    for row in _dicts(evaluation.get("calibration")):
        values = (number(row.get("confidence")), number(row.get("accuracy")), number(row.get("images")))
        if values[0] is not None and values[1] is not None and values[2]:
            found.append((values[0], values[1], int(values[2])))
    return found


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _matrix(value: Any, classes: int) -> NDArray[np.int64] | None:
    try:
        matrix = np.array(value, dtype=np.int64)
    except (TypeError, ValueError, OverflowError):
        return None
    return matrix if classes and matrix.shape == (classes, classes) and (matrix >= 0).all() else None


def _heat(matrix: NDArray[np.int64], names: list[str]) -> list[tuple[str, list[Cell]]]:
    totals = np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shares = matrix / totals
    # Mistakes are rare: painted by their square root, they show beside the diagonal.
    strengths = np.where(np.eye(len(names), dtype=bool), shares, np.sqrt(shares))
    return [
        (
            name,
            [
                Cell(
                    int(matrix[row, column]),
                    round(float(strengths[row, column]), 3),
                    f"{name} taken for {other}: {matrix[row, column]} ({100 * shares[row, column]:.1f} %)"
                    if row != column
                    else f"{name} right: {matrix[row, column]} ({100 * shares[row, column]:.1f} %)",
                )
                for column, other in enumerate(names)
            ],
        )
        for row, name in enumerate(names)
    ]


def _pairs(matrix: NDArray[np.int64], names: list[str]) -> list[tuple[str, str, str, str]]:
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    totals = matrix.sum(axis=1)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_PAIRS]
    found = []
    for flat in order:
        row, column = divmod(int(flat), len(names))
        if wrong[row, column] == 0:
            break
        share = percent(wrong[row, column] / totals[row], 1)
        found.append((names[row], names[column], count(int(wrong[row, column])), share))
    return found


def _recall(row: dict[str, Any]) -> float:
    found = number(row.get("recall"))
    return 2.0 if found is None else found  # classes without pictures last


def _class_row(name: str, row: dict[str, Any]) -> ClassRow:
    recall = number(row.get("recall"))
    return ClassRow(
        name,
        count(row.get("support")),
        percent(recall, 1),
        round(100 * min(1.0, max(0.0, recall or 0.0)), 1),
        percent(row.get("precision"), 1),
        percent(row.get("f1"), 1),
    )
