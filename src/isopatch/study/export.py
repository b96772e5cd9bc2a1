"""A study's results as files to keep beside code: tables, plots, the page; no data, no path of the machine.

README.md  question, verdicts, table of cells, how to make it again      report.html  the page
study.yaml the declaration      runs.csv  every finished run      cells.csv verdicts.csv effects.csv
plots/*.png *.svg
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from isopatch.errors import UsageError
from isopatch.files import replace_file
from isopatch.report.study_figure import to_png, to_svg
from isopatch.report.study_markdown import study_markdown
from isopatch.report.study_metrics import COSTS
from isopatch.report.study_page import study_plots, write_study_page
from isopatch.study.public import without_paths
from isopatch.study.report import read_public

if TYPE_CHECKING:
    import pyarrow as pa

Table = tuple[list[str], list[list[Any]]]


def export_study(folder: Path, out: Path) -> list[Path]:
    """Write a study's results to `out` and return the files.

    Raises UsageError where the folder holds no study, or `out` cannot be written.
    """
    return write_export(*read_public(folder), out)


def write_export(document: Mapping[str, Any], results: pa.Table, out: Path) -> list[Path]:
    """Write the document of a study and its table (see `report.read_public`) to a folder."""
    files: dict[str, bytes] = {
        "README.md": study_markdown(document).encode(),
        "study.yaml": _yaml(document["declared"]),
        "runs.csv": _csv(_runs(results)),
        "cells.csv": _csv(_cells(document["analysis"]["cells"])),
        "verdicts.csv": _csv(_verdicts(document["analysis"]["verdicts"])),
        "effects.csv": _csv(_effects(document["analysis"]["effects"])),
    }
    for plots in study_plots(document).values():
        for plot in plots:
            files[f"plots/{plot.name}.png"] = to_png(plot)
            files[f"plots/{plot.name}.svg"] = to_svg(plot)
    written = []
    try:
        (out / "plots").mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            replace_file(out / name, content)
            written.append(out / name)
    except OSError as error:
        raise UsageError(f"{out}: cannot write: {error.strerror}; choose another folder") from None
    return [*written, write_study_page(document, out / "report.html")]


def _yaml(declared: Any) -> bytes:
    text: str = yaml.safe_dump(declared, sort_keys=False, allow_unicode=True, width=110)
    return text.encode()


def _csv(table: Table) -> bytes:
    """CSV with a head; text that a spreadsheet would run as a formula is quoted."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    head, rows = table
    writer.writerow(head)
    for row in rows:
        writer.writerow(["" if value is None else _safe(value) for value in row])
    return buffer.getvalue().encode()


def _safe(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@" and value else value


def _runs(results: pa.Table) -> Table:
    rows = results.to_pylist()
    return list(results.column_names), [[without_paths(value) for value in row.values()] for row in rows]


def _cells(cells: Sequence[Mapping[str, Any]]) -> Table:
    factors = list(cells[0]["levels"]) if cells else []
    probes = list(dict.fromkeys(name for cell in cells for name in cell["probes"]))
    head = ["cell", *factors, "runs", "top1", "deviation", "t_low", "t_high", "bootstrap_low",
            "bootstrap_high", "note", *COSTS, *probes]  # fmt: skip
    rows = []
    for cell in cells:
        summary = cell["top1"]
        rows.append(
            [
                cell["cell"],
                *cell["levels"].values(),
                summary["n"],
                summary["mean"],
                summary["deviation"],
                *_ends(summary["t"]),
                *_ends(summary["bootstrap"]),
                summary["note"],
                *cell["costs"].values(),
                *(cell["probes"].get(name) for name in probes),
            ]
        )
    return head, rows


def _verdicts(verdicts: Sequence[Mapping[str, Any]]) -> Table:
    plain = ["claim", "outcome", "expect", "margin", "metric", "difference"]
    head = [*plain, "t_low", "t_high", "bootstrap_low", "bootstrap_high", "p", "p_holm", "pairs", "seeds",
            "sentence", "source"]  # fmt: skip
    rows = [
        [
            *(verdict[key] for key in plain),
            *_ends(verdict["interval"]),
            *_ends(verdict["bootstrap"]),
            *(verdict[key] for key in head[10:]),
        ]
        for verdict in verdicts
    ]
    return head, rows


def _effects(effects: Sequence[Mapping[str, Any]]) -> Table:
    head = [
        "factor",
        "level",
        "reference",
        "difference",
        "t_low",
        "t_high",
        "pairs",
        "blocks",
        "low",
        "high",
        "note",
    ]
    rows = [
        [
            *(effect[key] for key in head[:4]),
            *_ends(effect["interval"]),
            *(effect[key] for key in head[6:]),
        ]
        for effect in effects
    ]
    return head, rows


def _ends(interval: Sequence[float] | None) -> tuple[float | None, float | None]:
    return (interval[0], interval[1]) if interval else (None, None)
