"""Write results/parity.md from results/: `python tools/parity_table.py [--check]`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "results"
TARGET = RESULTS / "parity.md"


def page() -> str:
    """Return the whole page."""
    parity, resnets, hostile = (_read(name) for name in ("parity", "cifar_resnets", "hostile"))
    published = _read("parity_published")
    formats = [
        (row["family"], row["format"], row["direction"], *_errors(row), _verdict(row["pass"]))
        for row in parity["rows"]
    ]
    controls = [(name, error) for name, error in parity["controls"].items()]
    positions = [
        ("x".join(map(str, row["size"])), row["mode"], row["error"], _verdict(row["pass"]))
        for row in parity["positions"]
    ]
    errors = published["errors"]
    counts = [
        (
            row["name"],
            f"{row['parameters']:,}",
            f"{row['macs']:,}",
            _verdict(row["pass"]),
            *(_worst(errors.get(row["name"], {}), kind) for kind in ("float64", "float32")),
        )
        for row in parity["counts"]
    ]
    accuracies = [(f"ResNet-{depth}", f"{count / 100:.2f} %") for depth, count in resnets["figure"].items()]
    parts = [
        "# Parity",
        "",
        "Made by `tools/parity_table.py` from the result files beside it, which name command, seed, versions "
        "and hardware. Errors are relative to the largest logit.",
        "",
        f"## Formats: {parity['measured']}",
        "",
        "Random weights, the other project's own model and files; `-`: one figure for both types.",
        "",
        *_table(("family", "format", "direction", "float64", "float32", ""), formats),
        "",
        "Controls, which have to be noticed:",
        "",
        *_table(("what was changed", "error"), controls),
        "",
        "## Positions of a DeiT-S from 224x224, against the function of each origin",
        "",
        *_table(("to", "mode", "largest difference", ""), positions),
        "",
        f"## Published CIFAR ResNets, {resnets['n']:,} test pictures",
        "",
        *_table(("model", "top-1"), accuracies),
        "",
        "## Hostile and damaged files",
        "",
        f"{hostile['claim']}: {hostile['measured']}.",
        "",
        "## Sizes of every name, and its published size against timm (logits and input gradient)",
        "",
        "Parameters and multiply-adds counted again; no error: timm does not have it, or its weights are "
        "too large for the comparison.",
        "",
        *_table(("name", "parameters", "multiply-adds", "", "float64", "float32"), counts),
        "",
    ]
    return "\n".join(parts)


def _read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return document


def _errors(row: dict[str, Any]) -> tuple[str, str]:
    if "difference" in row:
        return f"{row['difference']:g}", "-"
    return row["float64"], row["float32"]


def _worst(errors: dict[str, dict[str, str]], kind: str) -> str:
    return max(errors[kind].values(), key=float) if kind in errors else ""


def _verdict(passed: bool) -> str:
    return "pass" if passed else "**fail**"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def main() -> int:
    """Write or check."""
    wanted = page()
    if "--check" in sys.argv[1:]:
        return 0 if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == wanted else 1
    TARGET.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
