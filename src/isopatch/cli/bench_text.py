"""What `isopatch bench` prints for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isopatch.cli.text import columns
from isopatch.report.wording import rate

HEADS = ("", "precision", "layout", "threads", "images/s", "min-max", "n", "p50 ms", "p99 ms", "MB", "share")


def measured(document: Mapping[str, Any]) -> str:
    """Show each model's contenders, the fastest first, and how ours compares."""
    machine = document["machine"]
    what = "training step" if document["mode"] == "train" else "inference"
    where = machine["gpu"] or machine["cpu"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    lines = [f"{what}, batch {document['batch']}, {where}; {versions}"]
    if document["busy"] is not None:
        lines.append(f"note: {document['busy']}")
    for model in document["models"]:
        lines += ["", *_model(model)]
    lines += [
        "",
        "*: the fastest setting of its kind; images/s: median over rounds; p50, p99: of single pictures; MB: "
        "peak memory; share: of the measured matrix rate in that precision",
    ]
    if document["plot"] is not None:
        lines.append(f"plot: {document['plot']}")
    return "\n".join(lines)


def _model(model: Mapping[str, Any]) -> list[str]:
    size = "x".join(str(side) for side in model["image_size"])
    lines = [
        f"{model['source']}: {size} pixels, {model['parameters']:,} parameters, "
        f"{model['macs'] / 1e9:.3f} GMACs a picture; matrix rate {_rates(model)} GFLOP/s"
    ]
    lines.append(columns([HEADS, *(_row(row) for row in sorted(model["contenders"], key=_order))]))
    lines += _absent(model)
    if model["ratio_to_best_peer"] is not None:
        low, high = (model["ratio_spread"][end] for end in ("min", "max"))
        lines.append(
            f"{model['best']}: {model['ratio_to_best_peer']:.2f} times the best peer, {model['best_peer']} "
            f"(rounds: {low:.2f} to {high:.2f})"
        )
    return lines


def _rates(model: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{row['gflops']:,.0f} {row['precision']} with {row['threads']} thread{'s' * (row['threads'] > 1)}"
        for row in model["matrix_gflops"]
    )


def _order(row: Mapping[str, Any]) -> tuple[bool, float]:
    return not row["best"], -row["images_per_second"]


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    latency = row["latency_ms"]
    low, high = row["spread"]["min"], row["spread"]["max"]
    return (
        row["contender"] + ("*" if row["best"] else ""),
        row["precision"],
        row["layout"] or "-",
        str(row["threads"]),
        rate(row["images_per_second"]),
        f"{rate(low)}-{rate(high)}",
        str(row["n"]),
        "-" if latency is None else rate(latency["p50"]),
        "-" if latency is None else rate(latency["p99"]),
        "-" if row["peak_memory_mb"] is None else f"{row['peak_memory_mb']:,.0f}",
        f"{row['share_of_matrix_rate']:.3f}",
    )


def _absent(model: Mapping[str, Any]) -> list[str]:
    """One line for each reason, whatever number of settings it holds for."""
    lines = []
    for absent in model["absent"]:
        precision = f" {absent['setting']['precision']}" if absent["state"] == "wrong" else ""
        what = "not installed, " if absent["state"] == "not installed" else ""
        lines.append(f"{absent['contender']}{precision}: {what}{absent['why']}")
    return list(dict.fromkeys(lines))
