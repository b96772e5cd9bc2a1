"""Logits of two sides on the same pictures: how far apart, how often the same class, how accurate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isopatch.conversion.peers import Side
from isopatch.conversion.settings import side_by_side
from isopatch.data.loader import eval_batches
from isopatch.data.source import ImageSource
from isopatch.errors import IsopatchError, UsageError

TOLERANCE = 1e-5  # of the largest logit, float32: what two orders of summation may differ by
BATCH = 32


@dataclass
class Distance:
    """Differences of logits (B, K), added up batch by batch."""

    pictures: int = 0
    largest: float = 0.0
    total: float = 0.0
    count: int = 0
    scale: float = 0.0
    agreeing: int = 0

    def add(self, ours: Tensor, theirs: Tensor) -> None:
        """Take one batch."""
        difference = (ours.double() - theirs.double()).abs()
        self.pictures += len(ours)
        self.largest = max(self.largest, float(difference.max()))
        self.total += float(difference.sum())
        self.count += difference.numel()
        self.scale = max(self.scale, float(theirs.abs().max()))
        self.agreeing += int((ours.argmax(1) == theirs.argmax(1)).sum())

    def to_json(self) -> dict[str, float]:
        """Return largest, mean and relative difference (of the other side's largest logit), and agreement."""
        return {
            "max_error": self.largest,
            "mean_error": self.total / self.count,
            "relative_error": self.largest / self.scale if self.scale else self.largest,
            "top1_agreement": self.agreeing / self.pictures,
        }


def compare(
    ours: Side, theirs: Side, pictures: ImageSource, *, labelled: bool, tolerance: float = TOLERANCE
) -> dict[str, Any]:
    """Return the comparison as plain JSON values.

    The pictures are prepared our way for both sides, so that the code is compared, not the preparation; where
    the other side wants them otherwise, `own_input` holds the difference with each side's own preparation.
    Sides of different picture sizes have the latter only.
    labelled: count how many labels each side meets, with its own preparation.
    Raises UsageError where the sides have different numbers of classes, IsopatchError where a side's logits
    are not finite.
    """
    same_size = (ours.contract.height, ours.contract.width) == (theirs.contract.height, theirs.contract.width)
    own_way = theirs.contract != ours.contract
    code, own = Distance(), Distance()
    correct = [0, 0]
    streams = [eval_batches(pictures, ours.contract, batch_size=BATCH)]
    if own_way:
        streams.append(eval_batches(pictures, theirs.contract, batch_size=BATCH))
    for batches in zip(*streams, strict=True):
        mine = _logits(ours, batches[0].images)
        if same_size:
            code.add(mine, _logits(theirs, batches[0].images, like=mine))
        other = _logits(theirs, batches[-1].images, like=mine) if own_way else None
        if other is not None:
            own.add(mine, other)
        if labelled:
            labels = batches[0].labels
            judged = other if other is not None else _logits(theirs, batches[0].images, like=mine)
            for index, logits in enumerate((mine, judged)):
                correct[index] += int((logits.argmax(1) == labels).sum())
    compared = code if same_size else own
    figures = compared.to_json()
    rows = side_by_side(ours.settings, theirs.settings)
    return {
        "ours": ours.what,
        "theirs": theirs.what,
        "num_pictures": compared.pictures,
        "prepared": "our way for both sides" if same_size else "each side's own way (their sizes differ)",
        **figures,
        "own_input": own.to_json() if own_way and same_size else None,
        "tolerance": tolerance,
        "passed": figures["relative_error"] <= tolerance,
        "accuracy": {
            "ours": correct[0] / compared.pictures,
            "theirs": correct[1] / compared.pictures,
            "num_images": compared.pictures,
        }
        if labelled
        else None,
        "settings": rows,
        "differing_settings": [row["setting"] for row in rows if row["differs"]],
    }


def _logits(side: Side, images: Tensor, *, like: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        logits = side.logits(images)
    if like is not None and logits.shape != like.shape:
        raise UsageError(
            f"{side.what}: has {logits.shape[1]} classes, the model compared with it {like.shape[1]}"
        )
    if not bool(torch.isfinite(logits).all()):
        raise IsopatchError(f"{side.what}: its logits are not finite; the weights overflow, or are damaged")
    return logits
