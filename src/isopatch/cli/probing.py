"""`isopatch eval --probe`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from isopatch.cli.emit import emit
from isopatch.cli.models import how_to_run
from isopatch.errors import EXIT_DONE, UsageError

OPTIONS = ("shots", "probe_seeds", "probe_k", "probe_cache")  # that say something about --probe


def probe(arguments: argparse.Namespace) -> int:
    """Probe the features of a checkpoint."""
    from isopatch import eval_probes

    document = eval_probes.probe(
        arguments.checkpoint,
        arguments.data,
        probes=[each.strip() for each in arguments.probe.split(",") if each.strip()],
        shots=eval_probes.SHOTS if arguments.shots is None else numbers(arguments.shots, "--shots"),
        seeds=3 if arguments.probe_seeds is None else arguments.probe_seeds,
        ks=eval_probes.NEIGHBOURS if arguments.probe_k is None else numbers(arguments.probe_k, "--probe-k"),
        cache=arguments.probe_cache,
        split=arguments.split,
        **how_to_run(arguments),
    )
    emit(arguments, document, text)
    return EXIT_DONE


def numbers(given: str, option: str) -> list[int]:
    """Return the whole numbers of a list such as 1,5,10; raises UsageError."""
    try:
        return [int(part) for part in given.split(",")]
    except ValueError:
        raise UsageError(f"{option} {given}: give whole numbers with commas between them") from None


def text(document: Mapping[str, Any]) -> str:
    """Show every probe's accuracies in one table."""
    rows = [("probe", "setting", "learned from", "top-1", "95 % interval")]
    rows += [
        (
            name,
            f"{row['setting']}, {row['shots']} of each class" if name == "few-shot" else row["setting"],
            f"{row['training_pictures']:,}",
            f"{100 * row['top1']:.2f} %",
            _interval(row),
        )
        for name, found in document["probes"].items()
        for row in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        f"{document['model']}: {document['features']['dim']} features, frozen; {document['classes']} classes "
        f"of {document['data']}, {document['num_images']:,} pictures of the {document['split']} split"
    ]
    lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    if "few-shot" in document["probes"]:
        lines.append(
            "few-shot: mean over draws of the shots, t interval of that mean; the others: Wilson's interval "
            "over the pictures"
        )
    return "\n".join(lines)


def _interval(row: Mapping[str, Any]) -> str:
    if row["interval"] is None:
        return "one draw: none"
    low, high = row["interval"]
    draws = f" ({len(row['draws'])} draws)" if "draws" in row else ""
    return f"{100 * low:.2f} to {100 * high:.2f}{draws}"
