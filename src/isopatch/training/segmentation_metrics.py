"""Exact segmentation metrics from an integer confusion matrix. NumPy only; imports no torch.

Shapes: a class per pixel, truth and prediction of one shape; confusion (K, K) int64, [true][predicted].
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from isopatch.errors import UsageError


def pixel_confusion(
    truth: NDArray[np.integer], predicted: NDArray[np.integer], num_classes: int
) -> NDArray[np.int64]:
    """Count pixels by true and predicted class; matrices of several batches simply add up.

    Raises ValueError for shapes that differ and for classes outside 0..K-1.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"truth {truth.shape} and prediction {predicted.shape} have different shapes")
    for name, classes in (("true", truth), ("predicted", predicted)):
        if classes.size and (classes.min() < 0 or classes.max() >= num_classes):
            raise ValueError(
                f"{name} classes {classes.min()}..{classes.max()} lie outside 0..{num_classes - 1}"
            )
    pairs = truth.ravel().astype(np.int64) * num_classes + predicted.ravel()
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_iou(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return each class's intersection over union, (K,): hits / (true + predicted - hits).

    NaN for a class that is neither true nor predicted anywhere; 0 for one that is only predicted.
    """
    hits = np.diagonal(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - hits
    return np.where(union > 0, hits / np.maximum(union, 1), np.nan)


def mean_iou(confusion: NDArray[np.int64], classes: Sequence[int] | None = None) -> float:
    """Return the mean IoU over `classes` (None: all) that are true or predicted somewhere.

    The counts are of all pixels together, not a mean over pictures (as PASCAL VOC, Everingham et al. 2010).
    Raises UsageError where none of the classes occurs.
    """
    values = class_iou(confusion)
    values = values if classes is None else values[list(classes)]
    present = values[~np.isnan(values)]
    if not len(present):
        raise UsageError("no pixel was evaluated: none of the classes is true or predicted anywhere")
    return float(present.mean())
