"""What each factor does on its own: every level against the factor's first, over seeds of paired runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from isopatch.report.wording import number
from isopatch.study.pairs import PREFIX, Row, pair_up
from isopatch.study.stats import Interval, summarise


@dataclass(frozen=True)
class Effect:
    """Main effect of a level: the mean of paired differences to the factor's first level.

    interval: Student's, over the seeds (each the mean of its pairs), not corrected for there being many: for
    exploring, not for deciding.
    low, high: the smallest and largest mean difference in a block of other factors: where they have opposite
    signs the factors interact and the mean effect tells little. difference is None where there is no pair.
    """

    factor: str
    level: str
    reference: str
    pairs: int
    blocks: int
    difference: float | None
    interval: Interval | None
    low: float | None
    high: float | None
    note: str


def main_effects(
    rows: Sequence[Row], levels: Mapping[str, Sequence[str]], metric: str = "top1"
) -> list[Effect]:
    """Return the effects of every level but the first of each factor; levels: factor -> names in order."""
    found = []
    for factor, names in levels.items():
        for name in names[1:]:
            found.append(_effect(rows, factor, name, names[0], metric))
    return found


def level_means(rows: Sequence[Row], factor: str, metric: str = "top1") -> dict[str, list[float]]:
    """level -> the figures of all its runs."""
    found: dict[str, list[float]] = {}
    for row in rows:
        figure = number(row.get(metric))
        if figure is not None:
            found.setdefault(str(row[PREFIX + factor]), []).append(figure)
    return found


def _effect(rows: Sequence[Row], factor: str, level: str, reference: str, metric: str) -> Effect:
    pairs = pair_up(rows, {factor: level}, {factor: reference}, metric).balanced()
    if not pairs.pairs:
        note = "no runs that differ in this alone"
        return Effect(factor, level, reference, 0, 0, None, None, None, None, note)
    blocks = pairs.by_block()
    summary = summarise(pairs.differences)
    return Effect(
        factor,
        level,
        reference,
        len(pairs.pairs),
        len(blocks),
        summary.mean,
        summary.t,
        min(blocks.values()),
        max(blocks.values()),
        "one seed: its spread is unknown" if summary.n == 1 else summary.note,
    )
