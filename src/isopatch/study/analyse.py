"""From the table of results to everything the report says: cells, verdicts, effects, Pareto fronts."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from isopatch.report.study_metrics import COSTS
from isopatch.report.wording import number
from isopatch.study.effects import Effect, main_effects
from isopatch.study.pairs import PREFIX, Row, factors_of
from isopatch.study.pareto import pareto_front
from isopatch.study.stats import Summary, summarise
from isopatch.study.verdict import Claim, Verdict, judge

if TYPE_CHECKING:
    import pyarrow as pa

METRIC = "top1"


class Design(Protocol):
    """What an analysis needs of a study; `study.schema.Study` is one."""

    @property
    def factor_levels(self) -> Mapping[str, Mapping[str, Any]]:
        """factor -> the names of its levels, in order, each with its settings."""

    @property
    def hypotheses(self) -> Sequence[Claim]:
        """What is tested."""


@dataclass(frozen=True)
class CellResult:
    """All finished runs of one cell. levels: factor -> level; seeds and values (top-1) go together.

    costs: column -> mean over the runs, None where a run does not tell it.
    """

    cell: str
    levels: dict[str, str]
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    top1: Summary
    split: str
    costs: dict[str, float | None]
    probes: dict[str, float]


@dataclass(frozen=True)
class Analysis:
    """What a study found so far. fronts: cost column -> names of the cells on the front, cheapest first.

    notes: what a reader must know before believing any of it, in whole sentences.
    """

    metric: str
    levels: dict[str, list[str]]
    cells: list[CellResult]
    verdicts: list[Verdict]
    effects: list[Effect]
    fronts: dict[str, list[str]]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """The analysis as plain dictionaries and lists, for JSON."""
        return dataclasses.asdict(self)


def analyse(table: pa.Table | Sequence[Row], study: Design) -> Analysis:
    """Analyse the finished runs; with none there are no cells, and every verdict is "not certain"."""
    rows: list[Row] = list(table) if isinstance(table, Sequence) else table.to_pylist()
    levels = {factor: list(names) for factor, names in study.factor_levels.items()}
    cells = _cells(rows, levels)
    return Analysis(
        metric=METRIC,
        levels=levels,
        cells=cells,
        verdicts=judge(rows, list(study.hypotheses)),
        effects=main_effects(rows, levels) if rows else [],
        fronts=_fronts(cells),
        notes=_notes(rows, cells),
    )


def _cells(rows: Sequence[Row], levels: Mapping[str, Sequence[str]]) -> list[CellResult]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if number(row.get(METRIC)) is not None:
            groups.setdefault(str(row["cell"]), []).append(row)
    found = [_cell(name, sorted(members, key=lambda row: row["seed"])) for name, members in groups.items()]

    def place(cell: CellResult) -> tuple[Any, ...]:
        return *(names.index(cell.levels[name]) for name, names in levels.items() if name in cell.levels
                 and cell.levels[name] in names), cell.cell  # fmt: skip

    return sorted(found, key=place)


def _cell(name: str, members: Sequence[Row]) -> CellResult:
    values = tuple(float(row[METRIC]) for row in members)
    probes = {
        key: statistics.fmean(figures)
        for key in members[0]
        if key.startswith("probe.")
        and len(figures := [f for row in members if (f := number(row[key])) is not None]) == len(members)
    }
    return CellResult(
        cell=name,
        levels={factor: str(members[0][PREFIX + factor]) for factor in factors_of(members)},
        seeds=tuple(int(row["seed"]) for row in members),
        values=values,
        top1=summarise(values),
        split=str(members[0].get("split", "test")),
        costs={column: _mean([_cost(row, column) for row in members]) for column in COSTS},
        probes=probes,
    )


def _cost(row: Row, column: str) -> float | None:
    """A cost of a run, with that of the runs it was started from or taught by."""
    own, before = number(row.get(column)), number(row.get(f"before_{column}"))
    return own if own is None or before is None else own + before


def _mean(values: Sequence[Any]) -> float | None:
    figures = [figure for value in values if (figure := number(value)) is not None]
    return statistics.fmean(figures) if len(figures) == len(values) else None


def _fronts(cells: Sequence[CellResult]) -> dict[str, list[str]]:
    fronts = {}
    for column, (_, more_is_better) in COSTS.items():
        known = [(cell, cost) for cell in cells if (cost := cell.costs[column]) is not None]
        if known:
            costs = [-cost if more_is_better else cost for _, cost in known]
            front = pareto_front([cell.top1.mean for cell, _ in known], costs)
            fronts[column] = [known[index][0].cell for index in front]
    return fronts


def _notes(rows: Sequence[Row], cells: Sequence[CellResult]) -> list[str]:
    notes = []
    if not rows:
        return ["No run has finished yet: there is nothing to compare."]
    runs = [cell.top1.n for cell in cells]
    if max(runs) == 1:
        notes.append("Every cell has one run: differences between cells may be differences between seeds.")
    elif min(runs) < max(runs):
        notes.append(f"Cells have {min(runs)} to {max(runs)} finished runs: seeds are missing.")
    splits = {cell.split for cell in cells}
    if "val" in splits:
        notes.append(
            "Accuracy is on validation pictures, which also chose the weights of each run: it is optimistic."
        )
    machines = {(row.get("hardware"), row.get("threads")) for row in rows}
    if len(machines) > 1:
        notes.append(
            f"The runs were made on {len(machines)} kinds of machine or numbers of threads: "
            f"seconds and pictures per second are not like for like."
        )
    return notes
