"""A study as a Markdown page, for a folder of results that people read where the code lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from isopatch.report.study_figure import Plot
from isopatch.report.study_metrics import COST_HEADS
from isopatch.report.study_page import cell_rows, probe_names, progress, study_plots, warnings

COSTS_NOTE = (
    "Means over the runs of a cell, which differ in their seed alone. MACs are those of one picture. FLOPs "
    "are those of training and, as the training time, include what a cell's runs were started from or "
    "taught by; validations on the way are not in the time, nor in the pictures per second."
)


def study_markdown(document: Mapping[str, Any]) -> str:
    """Return the page; its plots are in plots/ beside it."""
    analysis = document["analysis"]
    blocks = [f"# {document['name']}", document["question"].strip()]
    blocks += ["\n>\n".join(f"> {warning}" for warning in warnings(document))]
    blocks += ["## Verdicts", "\n".join(_verdicts(analysis["verdicts"]))]
    plots = {section: _plots(found) for section, found in study_plots(document).items()}
    blocks += [plots.pop("verdicts")]
    if document["paper"]:
        blocks += ["What the papers say: " + document["paper"].strip()]
    rows = cell_rows(analysis["cells"])
    if rows:
        probes = probe_names(analysis["cells"])
        top1 = f"{analysis['cells'][0]['split']} top-1"
        head = [*analysis["levels"], top1, "95 % interval", "runs", *COST_HEADS, *probes]
        table = [
            [*row.levels, row.mean, row.note or row.interval, row.runs, *row.costs, *row.probes]
            for row in rows
        ]
        blocks += ["## Cells", _table(head, table), COSTS_NOTE]
    blocks += plots.values()
    blocks += [
        "## How it was done",
        progress(document["state"])[1] + ".",
        _table(["what", "value"], document["made"]),
    ]
    blocks += ["Make it again:", f"```sh\n{document['command']}\n```"]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _verdicts(verdicts: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for verdict in verdicts:
        lines.append(f"- **{_sentence(verdict['claim'])}** {verdict['sentence']}")
        if verdict["source"]:
            lines.append(f"  Where the expectation is from: {_sentence(verdict['source'])}")
        if verdict["chosen"]:
            lines.append(f"  Chosen on validation: {'; '.join(verdict['chosen'])}.")
    return lines or ["This study states no hypothesis."]


def _sentence(text: str) -> str:
    """With the stop that a claim may or may not have been given."""
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _plots(plots: Sequence[Plot]) -> str:
    return "\n\n".join(f"![{plot.title}](plots/{plot.name}.png)" for plot in plots)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(head), line(["---"] * len(head)), *(line(row) for row in rows)])
