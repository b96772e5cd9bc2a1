"""A study as a Markdown page, for a folder of results that people read where the code lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from isopatch.report.study_metrics import COST_HEADS
from isopatch.report.study_page import cell_rows, progress, study_plots, warnings


def study_markdown(document: Mapping[str, Any]) -> str:
    """Return the page; its plots are in plots/ beside it."""
    analysis = document["analysis"]
    lines = [f"# {document['name']}", "", document["question"], ""]
    lines += [f"> {warning}" for warning in warnings(document)]
    lines += ["", "## Verdicts", ""]
    for verdict in analysis["verdicts"]:
        lines.append(f"- **{verdict['claim']}.** {verdict['sentence']}")
        if verdict["source"]:
            lines.append(f"  Where the expectation is from: {verdict['source']}.")
        if verdict["chosen"]:
            lines.append(f"  Chosen on validation: {'; '.join(verdict['chosen'])}.")
    if not analysis["verdicts"]:
        lines.append("This study states no hypothesis.")
    lines += ["", *(f"![{plot.title}](plots/{plot.name}.png)" for plot in study_plots(document)["verdicts"])]
    if document["paper"]:
        lines += ["", "What the papers say: " + document["paper"]]
    rows = cell_rows(analysis["cells"])
    if rows:
        head = [*analysis["levels"], "top-1", "95 % interval", "runs", *COST_HEADS]
        table = [[*row.levels, row.mean, row.note or row.interval, row.runs, *row.costs] for row in rows]
        lines += ["", "## Cells", "", *_table(head, table)]
    for section, plots in study_plots(document).items():
        if section != "verdicts" and plots:
            lines += ["", *(f"![{plot.title}](plots/{plot.name}.png)" for plot in plots)]
    lines += ["", "## How it was done", "", progress(document["state"])[1] + ".", ""]
    lines += _table(["what", "value"], document["made"])
    lines += ["", "```sh", *document["command"].splitlines(), "```", ""]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return [line(head), line(["---"] * len(head)), *(line(row) for row in rows)]
