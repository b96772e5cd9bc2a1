"""`isopatch eval --suite robustness`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from isopatch.cli.emit import emit
from isopatch.cli.models import how_to_run
from isopatch.errors import EXIT_DONE

OPTIONS = ("suite_pictures", "suite_seed", "corruptions", "out")  # that say something about --suite
WORST = 5  # classes shown; --json has all


def robustness(arguments: argparse.Namespace) -> int:
    """Run the robustness suite on a checkpoint."""
    from isopatch import eval_robustness

    kinds = arguments.corruptions
    given = {
        "pictures": arguments.suite_pictures,
        "seed": arguments.suite_seed,
        "kinds": None if kinds is None else [kind.strip() for kind in kinds.split(",") if kind.strip()],
    }
    document = eval_robustness.robustness(
        arguments.checkpoint,
        arguments.data,
        **{key: value for key, value in given.items() if value is not None},
        out=arguments.out,
        split=arguments.split,
        **how_to_run(arguments),
    )
    emit(arguments, document, text)
    return EXIT_DONE


def text(document: Mapping[str, Any]) -> str:
    """Show accuracies by kind and level, with tiles shuffled, calibration and the weakest classes."""
    clean, calibration = document["clean"], document["calibration"]
    lines = [
        f"{document['model']} on {document['split']}: top-1 {_percent(clean['top1'])} of "
        f"{document['num_images']:,} clean pictures ({_interval(clean['interval'])})",
        f"{document['damaged_images']:,} of them damaged; isopatch's own corruptions, not ImageNet-C",
    ]
    heads = ("top-1 in %", "level 1", *(str(level) for level in range(2, 6)))
    rows = [heads] + [
        (row["name"], *(f"{100 * level['top1']:.1f}" for level in row["levels"]))
        for row in document["corruptions"]
    ]
    lines += _columns(rows) if document["corruptions"] else []
    summary = document["summary"]
    if summary["mean_top1"] is not None:
        kept = "" if summary["kept"] is None else f", {_percent(summary['kept'])} of the clean accuracy"
        lines.append(f"mean of all kinds and levels: {_percent(summary['mean_top1'])}{kept}")
    for row in document["shuffled"]:
        own = " (its patches)" if row["patches"] else ""
        lines.append(
            f"{row['tiles'][0]} x {row['tiles'][1]} tiles shuffled{own}: {_percent(row['top1'])} "
            f"({_interval(row['interval'])})"
        )
    before, after = calibration["before"], calibration["after"]
    if calibration["at_the_end"]:
        fitted = "no temperature: the other half's best lies outside the range that is searched"
    else:
        figures = f"ece {after['ece']:.4f}, nll {after['nll']:.4f}"
        fitted = f"with temperature {calibration['temperature']:.3g}, fitted on the other half: {figures}"
    lines.append(
        f"calibration on half of the pictures ({before['num_images']:,}): ece {before['ece']:.4f}, "
        f"nll {before['nll']:.4f}; {fitted}"
    )
    answered = ", ".join(
        f"{100 * row['coverage']:.0f} %: {_percent(row['accuracy'])}"
        for row in calibration["selective"]["at"]
    )
    lines.append(f"right among the surest: {answered}")
    weakest = ", ".join(f"{row['name']} {_percent(row['recall'])}" for row in document["classes"][:WORST])
    lines.append(f"weakest classes: {weakest}")
    return "\n".join([*lines, f"page: {document['files']['page']}"])


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _interval(ends: list[float]) -> str:
    return f"95 % interval {100 * ends[0]:.1f} to {100 * ends[1]:.1f}"
