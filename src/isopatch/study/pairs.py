"""Which runs are compared with which: equal in seed and in all that a claim or a factor leaves alone.

A row is one finished run of the results table: a mapping with `factor.<name>` columns, `seed` and figures.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from isopatch.errors import UsageError, nearest
from isopatch.report.wording import number

Row = Mapping[str, Any]
Cell = Mapping[str, Any]

BEST = "@best"
PREFIX = "factor."


@dataclass(frozen=True)
class Pair:
    """Two runs of one seed. block: what they share, as (factor, level) pairs; difference: first - second."""

    block: tuple[tuple[str, str], ...]
    seed: int
    difference: float


@dataclass(frozen=True)
class Pairs:
    """All pairs of a comparison. alone: runs without a partner. chosen: what "@best" came to, in words.

    left_out: pairs that `balanced` took out.
    """

    pairs: tuple[Pair, ...]
    alone: int
    chosen: tuple[str, ...]
    left_out: int = 0

    @property
    def differences(self) -> list[float]:
        """first - second of every seed, the mean over its blocks.

        A seed is what is drawn anew. Its pairs in several blocks share initial weights, order, data and
        teacher, so they are no more evidence of what another seed would give than one pair is.
        """
        seeds: dict[int, list[float]] = {}
        for pair in self.pairs:
            seeds.setdefault(pair.seed, []).append(pair.difference)
        return [statistics.fmean(values) for values in seeds.values()]

    def balanced(self) -> Pairs:
        """The most pairs, of two seeds or more, of which every seed has the same blocks.

        Otherwise a run that is missing would move the mean of its seed.
        """
        blocks: dict[int, frozenset[tuple[tuple[str, str], ...]]] = {}
        for pair in self.pairs:
            blocks[pair.seed] = blocks.get(pair.seed, frozenset()) | {pair.block}
        if len(set(blocks.values())) < 2:
            return self

        def having(common: frozenset[Any]) -> list[int]:
            return [seed for seed, own in blocks.items() if common <= own]

        def worth(common: frozenset[Any]) -> tuple[Any, ...]:
            found = len(having(common))
            return found > 1, found * len(common), found, sorted(common)

        kept = max({*blocks.values(), frozenset.intersection(*blocks.values())} - {frozenset()}, key=worth)
        seeds = having(kept)
        pairs = tuple(pair for pair in self.pairs if pair.seed in seeds and pair.block in kept)
        return replace(self, pairs=pairs, left_out=len(self.pairs) - len(pairs))

    def by_block(self) -> dict[tuple[tuple[str, str], ...], float]:
        """The mean difference of each block."""
        blocks: dict[tuple[tuple[str, str], ...], list[float]] = {}
        for pair in self.pairs:
            blocks.setdefault(pair.block, []).append(pair.difference)
        return {block: statistics.fmean(values) for block, values in blocks.items()}


def factors_of(rows: Sequence[Row]) -> list[str]:
    """The factors of a table, in the order of its columns."""
    return [key.removeprefix(PREFIX) for key in (rows[0] if rows else {}) if key.startswith(PREFIX)]


def level_text(level: Any) -> str:
    """A level as the table names it: true, 16, 0.1, patch."""
    return str(level).lower() if isinstance(level, bool) else str(level)


def pair_up(rows: Sequence[Row], first: Cell, second: Cell, metric: str) -> Pairs:
    """Pair the runs of two partial cells by seed and by the factors that neither names.

    "@best" as a level: of that factor's levels, the one with the highest mean validation accuracy over the
    seeds that all of them have, chosen apart in every block. A run without a figure for `metric` is as
    good as missing.
    Raises UsageError for unknown factors, and where the two name different ones.
    """
    known = factors_of(rows)
    for name in (*first, *second):
        if known and name not in known:
            raise UsageError(f"'{name}' is no factor of this study{nearest(str(name), known)}")
    if set(first) != set(second):
        apart = ", ".join(sorted(set(first) ^ set(second)))
        raise UsageError(f"better and worse must name the same factors; only one of them names {apart}")
    free = [name for name in known if name not in first]
    chosen: list[str] = []
    ours = _members(rows, first, free, metric, chosen)
    theirs = _members(rows, second, free, metric, chosen)
    shared = [key for key in ours if key in theirs]
    return Pairs(
        tuple(Pair(block, seed, ours[block, seed] - theirs[block, seed]) for block, seed in shared),
        len(ours) + len(theirs) - 2 * len(shared),
        tuple(chosen),
    )


def _members(
    rows: Sequence[Row], cell: Cell, free: Sequence[str], metric: str, chosen: list[str]
) -> dict[tuple[tuple[tuple[str, str], ...], int], float]:
    """(block, seed) -> figure of the runs in a partial cell."""
    fixed = {name: level_text(level) for name, level in cell.items() if level != BEST}
    open_factors = [name for name, level in cell.items() if level == BEST]
    inside = [row for row in rows if all(row[PREFIX + name] == level for name, level in fixed.items())]
    if open_factors:
        inside = _best(inside, open_factors, [*fixed, *free], chosen)
    found = {}
    for row in inside:
        figure = number(row.get(metric))
        if figure is not None:
            found[_block(row, free), int(row["seed"])] = figure
    return found


def _best(rows: Sequence[Row], factors: Sequence[str], others: Sequence[str], chosen: list[str]) -> list[Row]:
    """Keep, in every block, the runs of the levels that validated best."""
    groups: dict[tuple[tuple[str, str], ...], dict[tuple[str, ...], list[Row]]] = {}
    for row in rows:
        levels = tuple(str(row[PREFIX + name]) for name in factors)
        groups.setdefault(_block(row, others), {}).setdefault(levels, []).append(row)
    kept: list[Row] = []
    for block, by_level in groups.items():
        validated = {
            levels: {int(row["seed"]): number(row.get("val_top1")) for row in members}
            for levels, members in by_level.items()
        }
        if any(figure is None for figures in validated.values() for figure in figures.values()):
            raise UsageError("'@best' needs validation accuracy (column val_top1), which runs here lack")
        seeds = frozenset.intersection(*(frozenset(figures) for figures in validated.values()))
        if not seeds:
            raise UsageError("'@best' has no seed yet at which all the levels to choose from are finished")
        means = {
            levels: statistics.fmean(figures[seed] or 0.0 for seed in seeds)
            for levels, figures in validated.items()
        }
        levels = max(means, key=lambda key: means[key])
        where = ", ".join(f"{name} {level}" for name, level in block)
        best = ", ".join(f"{name} {level}" for name, level in zip(factors, levels, strict=True))
        chosen.append(f"{where}: {best}" if where else best)
        kept += by_level[levels]
    return kept


def _block(row: Row, free: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple((name, str(row[PREFIX + name])) for name in free)
