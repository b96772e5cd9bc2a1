"""Text of `isopatch models list` and `isopatch models show`. Imports no torch."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from isopatch.models.table import MODELS, aliases_of


def list_rows() -> list[dict[str, Any]]:
    """Return one row per model name, for `models list --json`.

    Keys: name, architecture, aliases, image_size, num_classes, parameters, macs, flops, top1, top1_source;
    the figures are None for the plain names, whose sizes are arguments.
    """
    rows = []
    for entry in MODELS.values():
        best = max(entry.accuracy, default=None)
        rows.append(
            {
                "name": entry.name,
                "architecture": entry.architecture,
                "aliases": aliases_of(entry.name),
                "image_size": None if entry.plain else [entry.input.height, entry.input.width],
                "num_classes": entry.arguments.get("num_classes"),
                "parameters": entry.parameters,
                "macs": entry.macs,
                "flops": None if entry.macs is None else 2 * entry.macs,
                "top1": None if best is None else best.top1,
                "top1_source": None if best is None else best.source,
            }
        )
    return rows


def render_list(rows: Sequence[Mapping[str, Any]] | None = None) -> str:
    """Return the table of models as text. rows: of `list_rows`, all by default."""
    header = ("name", "parameters", "GMACs", "image", "top-1 %", "also")
    lines = [header]
    for row in list_rows() if rows is None else rows:
        if row["parameters"] is None:
            lines.append((row["name"], "-", "-", "-", "-", "every size is an argument: --model.dim N ..."))
            continue
        lines.append(
            (
                row["name"],
                f"{row['parameters']:,}",
                f"{row['macs'] / 1e9:.3f}",
                "x".join(str(side) for side in row["image_size"]),
                "-" if row["top1"] is None else f"{row['top1']:.2f}",
                ", ".join(row["aliases"]),
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    text = []
    for line in lines:
        cells = [line[0].ljust(widths[0]), *(line[c].rjust(widths[c]) for c in range(1, 5)), line[5]]
        text.append("  ".join(cells).rstrip())
    text.append("")
    text.append(
        "top-1: best published weights, ImageNet-1k or CIFAR-10; `isopatch models show NAME` has the sources"
    )
    text.append("timm:NAME and torchvision:NAME are those libraries' own models")
    return "\n".join(text)


def render_show(facts: Mapping[str, Any]) -> str:
    """Return what `describe` found as text."""
    contract = facts["input"]
    resize = "shorter side resized" if contract["resize"] == "shorter" else "squashed"
    arguments = ", ".join(f"{key}={value}" for key, value in facts["arguments"].items())
    tokens = "no feature map"
    if facts["grid"] is not None:
        rows, cols = facts["grid"]
        prefix = facts["tokens"] - rows * cols
        tokens = f"{facts['tokens']:,} ({rows} x {cols} patches" + (f" + {prefix} prefix)" if prefix else ")")
    lines = [
        ("name", facts["name"] + (f" ({', '.join(facts['aliases'])})" if facts["aliases"] else "")),
        ("architecture", f"{facts['architecture']}({arguments})"),
        ("parameters", f"{facts['parameters']:,}"),
        ("MACs", f"{facts['macs']:,} ({facts['macs'] / 1e9:.3f} G)"),
        ("FLOPs", f"{facts['flops']:,} ({facts['flops'] / 1e9:.3f} G)"),
        ("tokens", tokens),
        ("weights", megabytes(facts["weight_bytes"])),
        (
            "one forward",
            megabytes(facts["forward_memory_bytes"]) + " of activations at the peak, one picture",
        ),
        (
            "one training step",
            megabytes(facts["backward_memory_bytes"]) + " of activations kept, one picture",
        ),
        (
            "input",
            f"{contract['height']}x{contract['width']}, {resize}, {contract['interpolation']}, "
            f"centre crop {contract['crop_fraction']:g}, mean {contract['mean']}, std {contract['std']}",
        ),
        *(("top-1", f"{entry['top1']:.2f} %: {entry['source']}") for entry in facts["accuracy"]),
        *(("weights at", checkpoint_line(checkpoint)) for checkpoint in facts["checkpoints"]),
        ("compared with", facts["parity"]),
        ("size from", facts["sources"]["size"]),
        ("counts", facts["sources"]["parameters_macs_flops"]),
        ("memory", facts["sources"]["memory"]),
    ]
    width = max(len(label) for label, _ in lines)
    return "\n".join(
        textwrap.fill(
            value,
            110,
            initial_indent=f"{label.ljust(width)}  ",
            subsequent_indent=" " * (width + 2),
            break_on_hyphens=False,
        )
        for label, value in lines
    )


def checkpoint_line(checkpoint: Mapping[str, Any]) -> str:
    """Published weights in words: what `isopatch.load` takes, and what is not as one would expect."""
    classes = checkpoint["num_classes"]
    said = [] if classes == 1000 else [f"{classes:,} classes" if classes else "no classifier"]
    if checkpoint["licence"] not in ("apache-2.0", "mit"):
        said.append(checkpoint["licence"] or "licence not stated")
    return str(checkpoint["id"]) + (f" ({', '.join(said)})" if said else "")


def megabytes(size: int) -> str:
    """Bytes as megabytes (10^6), with one digit."""
    return f"{size / 1e6:,.1f} MB"
