"""Accuracies as marks on one common scale, each with its interval: what a table shows beside the figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from isopatch.report.intervals import wilson
from isopatch.report.wording import percent

Result = tuple[float, int]  # top-1 as a fraction, pictures (0: unknown)


@dataclass(frozen=True)
class Dot:
    """Where a result and its 95 % interval lie on the table's common scale, in percent of its width."""

    at: float
    low: float
    width: float
    title: str


def interval(result: Result) -> tuple[float, float]:
    """Return Wilson's 95 % interval; the value itself where the pictures are unknown."""
    top1, images = result
    return wilson(round(top1 * images), images) if images > 0 else (top1, top1)


def scale_of(results: Sequence[Result], references: Sequence[float] = ()) -> tuple[float, float]:
    """Return the ends of the scale that shows all results, intervals and references, with a margin."""
    bounds = [bound for result in results for bound in interval(result)] + [float(v) for v in references]
    if not bounds:
        return 0.0, 1.0
    margin = 0.06 * (max(bounds) - min(bounds)) or 0.01
    return min(bounds) - margin, max(bounds) + margin


def dot(result: Result | None, scale: tuple[float, float]) -> Dot | None:
    """Return the mark of a result with its Wilson interval; None of none."""
    if result is None:
        return None
    low, high = interval(result)
    start, span = scale[0], scale[1] - scale[0]
    title = f"{percent(result[0])}, 95 % interval {percent(low, 1)} to {percent(high, 1)}"
    return Dot(
        round(100 * (result[0] - start) / span, 2),
        round(100 * (low - start) / span, 2),
        round(100 * (high - low) / span, 2),
        title,
    )


def dot_at(value: float, scale: tuple[float, float]) -> Dot:
    """Return the mark of a figure that is no count and has no interval."""
    at = round(100 * (value - scale[0]) / (scale[1] - scale[0]), 2)
    return Dot(at, at, 0.0, percent(value))
