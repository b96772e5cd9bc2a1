"""What the verbs of `isopatch study` say in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from isopatch.cli.text import table


def listed(document: Sequence[Mapping[str, Any]]) -> str:
    """One line per built-in study."""
    return table({row["name"]: row["question"] for row in document})


def planned(document: Mapping[str, Any]) -> str:
    """A table of the runs, one line per cell, and what they cost together."""
    cells: dict[str, list[Mapping[str, Any]]] = {}
    for run in document["runs"]:
        cells.setdefault(run["cell"], []).append(run)
    header = ("cell", "runs", "parameters", "MACs", "steps", "pictures", "training FLOPs", "hours each")
    lines = [header, *(_cell_line(name, runs) for name, runs in cells.items())]
    kind, amount = next(iter(document["equal"].items()))
    total = [f"{len(document['runs'])} runs; held equal: {kind.replace('_', ' ')} {amount:g}"]
    hours = [run["hours"] for run in document["runs"]]
    if all(hour is not None for hour in hours):
        total.append(f"about {_duration(sum(hours))} in all, one after the other, evaluations not included")
    total.append(_base(document["declared"]))
    return "\n".join([document["question"], "", *columns(lines), "", *total, *_notes(document)])


def status(document: Mapping[str, Any]) -> str:
    """How many runs are in each state; what failed, and why."""
    waiting = document["planned"] - document["done"] - document["failed"] - document["running"]
    lines = [
        f"{document['study']}: {document['done']} of {document['planned']} runs done, "
        f"{document['running']} running, {document['failed']} failed, {waiting} waiting"
    ]
    for run in document["runs"]:
        if run["state"] == "running":
            lines.append(f"running: {run['run']}, step {run['step']} of {run['total_steps']}")
        if run["state"] == "failed":
            lines.append(f"failed: {run['run']}: {run['error']} (--retry-failed takes it up again)")
    if "results" in document:
        lines.append(f"results: {document['results']}")
    return "\n".join(lines)


def submitted(document: Mapping[str, Any]) -> str:
    """Which jobs were queued."""
    jobs = ", ".join(document["jobs"])
    return f"queued: {jobs}; isopatch study status {document['folder']} shows how far they are"


def queried(rows: Sequence[Mapping[str, Any]]) -> str:
    """The answer of a query: a header, then one line per row."""
    if not rows:
        return "no rows"
    lines = [tuple(rows[0]), *(tuple(_plain(value) for value in row.values()) for row in rows)]
    return "\n".join(columns(lines))


def _plain(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines in aligned columns, the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _cell_line(name: str, runs: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    first = runs[0]
    return (
        name,
        str(len(runs)),
        f"{first['parameters']:,}",
        f"{first['macs']:,}",
        f"{first['steps']:,}",
        f"{first['images']:,}",
        f"{first['training_flops']:.3g}",
        "-" if first["hours"] is None else f"{first['hours']:.2g}",
    )


def _duration(hours: float) -> str:
    minutes = max(1, round(60 * hours))
    return f"{minutes} minute{'s' * (minutes != 1)}" if hours < 2 else f"{hours:.1f} hours"


def _base(declared: Mapping[str, Any]) -> str:
    """What every run has that no factor says otherwise."""
    settings = declared.get("base") or {}
    return "every run: " + ", ".join(f"{key} {value}" for key, value in settings.items())


def _notes(document: Mapping[str, Any]) -> list[str]:
    return [f"note: {note}" for note in document["notes"]]
