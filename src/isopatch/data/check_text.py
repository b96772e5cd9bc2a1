"""The text form of `check_data`'s result, for a terminal."""

from __future__ import annotations

from collections import Counter
from typing import Any

_MOST = 20  # lines of one list; the JSON form has them all


def render_check(result: dict[str, Any]) -> str:
    """Return `check_data`'s result as lines of text: counts first, then what needs attention."""
    lines = [
        f"{result['source']}: {result['pictures']:,} pictures, {result['readable']:,} readable, "
        f"{result['unreadable']:,} unreadable"
    ]
    for split, counts in result["splits"].items():
        lines += _split(split, counts)
    for side, spread in result["sizes"].items():
        if spread:
            lines.append(f"{side:<8}min {spread['min']}, median {spread['median']:g}, max {spread['max']}")
    for title in ("formats", "modes"):
        if result[title]:
            lines.append(f"{title:<8}" + ", ".join(f"{name} {n:,}" for name, n in result[title].items()))
    lines += _section("unreadable", [f"{bad['file']}: {bad['reason']}" for bad in result["unreadable_files"]])
    lines += _section("look wrong", [f"{r['file']}: {r['remark']}" for r in result["remarks"]])
    lines += _duplicates(result["duplicates"])
    if result["ignored_files"]:
        kinds = ", ".join(f"{kind} {n:,}" for kind, n in result["ignored_files"].items())
        lines.append(f"not pictures (ignored): {kinds}")
    if result["hidden_files"]:
        lines.append(f"hidden (ignored): {result['hidden_files']:,}")
    lines += [f"note: {note}" for note in result["notes"]]
    if result["problem"]:
        lines.append(f"training would refuse this data: {result['problem']}")
    return "\n".join(lines)


def _split(split: str, counts: dict[str, Any]) -> list[str]:
    head = f"{split}: {counts['readable']:,} readable, {counts['unreadable']:,} unreadable"
    if counts["imbalance"]:
        head += f", {len(counts['classes']):,} classes, largest {counts['imbalance']:.3g}x the smallest"
    shown = Counter(counts["classes"]).most_common(_MOST)
    body = ", ".join(f"{name} {n:,}" for name, n in shown)
    rest = len(counts["classes"]) - len(shown)
    return [head] + ([f"    {body}" + (f" and {rest:,} more" if rest else "")] if body else [])


def _duplicates(groups: list[dict[str, Any]]) -> list[str]:
    """Groups across splits first: they make a measured accuracy too good."""
    entries = []
    for group in sorted(groups, key=lambda g: (not g["across_splits"], not g["labels_differ"])):
        traits = [
            text
            for text, holds in (
                ("ACROSS SPLITS", group["across_splits"]),
                ("DIFFERENT CLASSES", group["labels_differ"]),
            )
            if holds
        ]
        names = " = ".join(file["file"] for file in group["files"])
        entries.append(f"{names}{' (' + ', '.join(traits) + ')' if traits else ''}")
    return _section("same content", entries)


def _section(title: str, entries: list[str]) -> list[str]:
    if not entries:
        return []
    lines = [f"{title}: {len(entries):,}", *(f"    {entry}" for entry in entries[:_MOST])]
    if len(entries) > _MOST:
        lines.append(f"    and {len(entries) - _MOST:,} more (--json lists all)")
    return lines
