"""Write results/papers_table.md and .png from results/papers_table.json.

`PYTHONPATH=src python tools/papers_table.py`; with `--check` only say whether the page is that of the result.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "results"
SOURCE, TARGET = RESULTS / "papers_table.json", RESULTS / "papers_table.md"
PICTURE = RESULTS / "papers_table.png"

HEAD = (
    "model", "picture", "parameters", "GMACs", "published top-1", "source", "plain images/s",
    "native images/s", "native / plain",
)  # fmt: skip


def page(result: Mapping[str, Any]) -> str:
    """Return the whole page."""
    lines = [f"| {' | '.join(cells)} |" for cells in (HEAD, ["---"] * len(HEAD), *map(_row, result["rows"]))]
    return "\n".join(
        [
            "# The papers' table, measured on one machine",
            "",
            "Made by `tools/papers_table.py` from the result file beside it, which names command, seed and "
            f"versions. Inference, batch {result['batch']}, median of {result['n']} rounds, the fastest of "
            f"fp32 and bf16, layouts and numbers of threads. {result['hardware']}.",
            "",
            *lines,
            "",
            f"{result['measured']}.",
            "",
            f"![Multiply-adds and published accuracy against images/s]({PICTURE.name})",
            "",
        ]
    )


def _row(row: Mapping[str, Any]) -> list[str]:
    rates = row["images_per_second"]
    plain, native = rates["plain"], rates.get("native")
    return [
        row["label"],
        f"{row['image_size']}",
        f"{row['parameters']:,}",
        f"{row['macs'] / 1e9:.3g}",
        "-" if row["top1"] is None else f"{row['top1']:g}",
        row["source"] or "-",
        f"{plain:,.4g}",
        "-" if native is None else f"{native:,.4g}",
        "-" if native is None else f"{native / plain:.2f}",
    ]


def draw(result: Mapping[str, Any]) -> None:
    """Draw the table as `isopatch bench --plot` draws what it measures."""
    from isopatch.report.bench_plot import write_bench_plot

    machine = {"gpu": None, "cpu": result["hardware"], "versions": {"torch": result["versions"]["torch"]}}
    rows = [row for each in result["rows"] for row in each["settings"].values()]
    document = {
        "mode": "infer",
        "batch": result["batch"],
        "rounds": result["n"],
        "threads": sorted({row["threads"] for row in rows}),
        "machine": machine,
        "models": [_drawn(row) for row in result["rows"]],
    }
    write_bench_plot(document, PICTURE)


def _drawn(row: Mapping[str, Any]) -> dict[str, Any]:
    settings = list(row["settings"].values())
    rates = [
        2 * row["macs"] * each["images_per_second"] / each["share_of_matrix_rate"] / 1e9 for each in settings
    ]
    return {
        "model": row["label"],
        "macs": row["macs"],
        "accuracy": [] if row["top1"] is None else [{"top1": row["top1"]}],
        "contenders": settings,
        "matrix_gflops": [
            {"precision": each["precision"], "gflops": rate}
            for each, rate in zip(settings, rates, strict=True)
        ],
    }


def main() -> int:
    """Write or check; without a result there must be no page."""
    if not SOURCE.is_file():
        return int(TARGET.exists())
    wanted = page(json.loads(SOURCE.read_text(encoding="utf-8")))
    if "--check" in sys.argv[1:]:
        return 0 if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == wanted else 1
    TARGET.write_text(wanted, encoding="utf-8")
    draw(json.loads(SOURCE.read_text(encoding="utf-8")))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
