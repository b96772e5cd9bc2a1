"""A study as one file that opens offline: the question, the verdicts, then everything they rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isopatch.report.curves import Chart
from isopatch.report.render import write_page
from isopatch.report.study_curves import curve_plot
from isopatch.report.study_figure import Plot, to_page
from isopatch.report.study_metrics import COST_HEADS, COSTS, cost_text, metric_of
from isopatch.report.study_plots import cells_plot, factor_plot, pareto_plot, verdict_plot
from isopatch.report.wording import MISSING, percent

Document = Mapping[str, Any]
_PILLS = {"supported": "finished", "contradicted": "failed", "not certain": "unknown"}


@dataclass(frozen=True)
class CellRow:
    """One line of the table of cells. span: its mark on the common scale, in percent of the width."""

    levels: tuple[str, ...]
    mean: str
    interval: str
    bootstrap: str
    note: str
    runs: str
    costs: tuple[str, ...]
    probes: tuple[str, ...]
    span: dict[str, Any]


def write_study_page(document: Document, out: Path) -> Path:
    """Write the page of a study to `out` and return it.

    document: as `isopatch.study.report.build_document` makes it. Raises UsageError where `out` cannot be
    written, is no .html, or exists and is no page of ours.
    """
    plots = study_plots(document)
    charts = {name: [_chart(plot) for plot in found] for name, found in plots.items()}
    analysis = document["analysis"]
    return write_page(
        "study.html.j2",
        out,
        {
            "title": document["name"],
            "document": document,
            "progress": progress(document["state"]),
            "unfinished": [run for run in document["runs"] if run["state"] != "done"],
            "warnings": warnings(document),
            "verdicts": [{**verdict, "pill": _PILLS[verdict["outcome"]]} for verdict in analysis["verdicts"]],
            "rows": cell_rows(analysis["cells"]),
            "factors": list(analysis["levels"]),
            "probes": probe_names(analysis["cells"]),
            "costs": COST_HEADS,
            "effects": [_effect(effect, analysis["metric"]) for effect in analysis["effects"]],
            "split": analysis["cells"][0]["split"] if analysis["cells"] else "test",
            "charts": charts,
        },
    )


def study_plots(document: Document) -> dict[str, list[Plot]]:
    """Return the plots of a study by section; a section without any is an empty list."""
    analysis = document["analysis"]
    cells = analysis["cells"]
    by_factor = [factor_plot(cells, name, levels) for name, levels in analysis["levels"].items()]
    pareto = [pareto_plot(cells, front, column) for column, front in analysis["fronts"].items()]
    found: dict[str, list[Plot | None]] = {
        "verdicts": [verdict_plot(analysis["verdicts"])],
        "cells": [cells_plot(cells)],
        "factors": by_factor if cells else [],
        "pareto": pareto,
        "curves": [curve_plot(document["curves"], cells)],
    }
    return {name: [plot for plot in plots if plot is not None] for name, plots in found.items()}


def progress(state: Mapping[str, int]) -> tuple[str, str]:
    """(word, sentence) of how far the study is; the word is one of the page's pills."""
    planned, done = state["planned"], state["done"]
    told = [f"{done} of {planned} runs are finished"]
    told += [
        f"{state[key]} {word}" for key, word in (("running", "running"), ("failed", "failed")) if state[key]
    ]
    word = "finished" if done == planned else "running" if state["running"] else "unfinished"
    return word, ", ".join(told)


def warnings(document: Document) -> list[str]:
    """Return what a reader must know before believing the page."""
    found = []
    state = document["state"]
    if state["done"] < state["planned"]:
        found.append(
            f"This study is not complete: {progress(state)[1]}. What is below rests on the finished."
        )
    return [*found, *document["analysis"]["notes"]]


def cell_rows(cells: Sequence[Mapping[str, Any]]) -> list[CellRow]:
    """Return the table of cells with formatted figures."""
    values = [value for cell in cells for value in cell["values"]]
    ends = [end for cell in cells for end in cell["top1"]["t"] or ()]
    if not values:
        return []
    low, high = min(values), max(values)
    room = max(0.5 * (high - low), 0.004)  # wide intervals of few runs must not squeeze the scale
    low, high = max(min([*ends, low]), low - room), min(max([*ends, high]), high + room)

    def at(value: float) -> float:
        share = float((value - low) / ((high - low) or 1.0))
        return round(100 * min(1.0, max(0.0, share)), 2)

    metric = metric_of("top1")
    probes = probe_names(cells)
    rows = []
    for cell in cells:
        summary = cell["top1"]
        start, end = (at(value) for value in summary["t"] or (summary["mean"], summary["mean"]))
        rows.append(
            CellRow(
                tuple(cell["levels"].values()),
                metric.value(summary["mean"]),
                _ends(summary["t"]),
                _ends(summary["bootstrap"]),
                summary["note"],
                str(summary["n"]),
                tuple(cost_text(column, cell["costs"][column]) for column in COSTS),
                tuple(metric_of(name).value(cell["probes"].get(name)) for name in probes),
                {
                    "at": at(summary["mean"]),
                    "low": start,
                    "width": round(end - start, 2),
                    "dots": [at(value) for value in cell["values"]],
                    "title": ", ".join(
                        f"seed {seed}: {percent(value)}"
                        for seed, value in zip(cell["seeds"], cell["values"], strict=True)
                    ),
                },
            )
        )
    return rows


def probe_names(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns of the probes that all runs of some cell have."""
    return list(dict.fromkeys(name for cell in cells for name in cell["probes"]))


def _chart(plot: Plot) -> Chart:
    return Chart(plot.title, to_page(plot), plot.note)


def _ends(interval: Sequence[float] | None) -> str:
    """An interval of a share; that of few runs may reach beyond what a share can be."""
    if not interval:
        return MISSING
    low, high = max(0.0, interval[0]), min(1.0, interval[1])
    return f"{100 * low:.2f} to {100 * high:.2f} %"


def _effect(effect: Mapping[str, Any], column: str) -> tuple[str, ...]:
    metric = metric_of(column)
    if effect["difference"] is None:
        return effect["factor"], effect["level"], effect["reference"], MISSING, MISSING, "0", effect["note"]
    spread = ""
    if effect["blocks"] > 1:
        spread = metric.interval((effect["low"], effect["high"]))
    return (
        effect["factor"],
        effect["level"],
        effect["reference"],
        metric.difference(effect["difference"]),
        metric.interval(effect["interval"]) if effect["interval"] else MISSING,
        str(effect["pairs"]),
        effect["note"] or spread,
    )
