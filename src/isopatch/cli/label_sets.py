"""`isopatch eval --labels` and `--class-subset`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from isopatch.cli.emit import emit
from isopatch.cli.models import how_to_run
from isopatch.errors import EXIT_DONE, GateFailed


def evaluate(arguments: argparse.Namespace) -> int:
    """Measure a checkpoint by label sets, or among the classes that the data has folders for."""
    from isopatch.eval_labels import How, evaluate_labels, evaluate_subset

    how = How(
        **how_to_run(arguments),
    )
    given = {"split": arguments.split, "how": how}
    if arguments.labels is not None:
        document = evaluate_labels(arguments.checkpoint, arguments.data, arguments.labels, **given)
        emit(arguments, document, labels_text)
    else:
        document = evaluate_subset(arguments.checkpoint, arguments.data, **given)
        emit(arguments, document, subset_text)
    if arguments.min_acc is not None and document["top1"] < arguments.min_acc:
        raise GateFailed(f"top-1 {document['top1']:.4f} is below --min-acc {arguments.min_acc:g}")
    return EXIT_DONE


def labels_text(document: Mapping[str, Any]) -> str:
    """Show accuracy by label sets beside that by the data's own labels."""
    return "\n".join(
        [
            f"{document['model']} on {document['split']}, labels of {document['labels']}",
            f"top-1 {_share(document, document['num_counted'])}: the prediction is among the right answers "
            f"({document['labels_per_picture']:.2f} a picture)",
            f"left out: {document['left_out']:,} of {document['num_images']:,} pictures, no answer is right",
            f"by the data's own labels: {_share(document['original'], document['num_images'])}",
        ]
    )


def subset_text(document: Mapping[str, Any]) -> str:
    """Show accuracy among some classes beside that among all."""
    number = document["num_images"]
    return "\n".join(
        [
            f"{document['model']} on {document['split']}: {document['classes']:,} of {document['outputs']:,} "
            f"classes ({document['matched']})",
            f"top-1 among them: {_share(document, number)}",
            f"among all: {_share(document['unrestricted'], number)}; {100 * document['outside']:.2f} % are "
            f"taken for a class outside",
        ]
    )


def _share(row: Mapping[str, Any], number: int) -> str:
    low, high = row["interval"]
    return (
        f"{100 * row['top1']:.2f} % ({row['num_correct']:,} of {number:,}; 95 % interval {100 * low:.2f} to "
        f"{100 * high:.2f})"
    )
