"""Exact classification metrics: integer counts, float64 sums, independent of the batch split.

Shapes: logits (B, K) for B pictures and K classes; labels (B,). NumPy only; imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isopatch.errors import IsopatchError, UsageError

CALIBRATION_BINS = 15
MAX_CONFUSION_CLASSES = 4096  # a K x K matrix of int64 above this takes more than 128 MiB


class MetricAccumulator:
    """Counts and sums over pictures; every piece of its state is additive, so parts can be merged.

    top1, top5: the true class is among the 1 or min(5, K) largest logits. Of equal logits the lower class
        index comes first, so a model that says the same for every class does not score by luck.
    nll: mean of -log p[true], natural logarithm, with p = softmax(logits) in float64.
    brier: mean over pictures of sum over classes of (p[class] - [class is true])^2, from 0 to 2
        (Brier 1950, multi-class form).
    ece: expected calibration error, sum over bins of (n_bin / N) |accuracy_bin - mean confidence_bin|
        where confidence is the largest p and the 15 bins (b/15, (b+1)/15] have equal width
        (Guo et al. 2017, equation 3).
    """

    def __init__(self, num_classes: int) -> None:
        """Start empty for `num_classes` >= 1 classes."""
        if num_classes < 1:
            raise ValueError(f"num_classes {num_classes}: metrics need at least one class")
        self.num_classes = num_classes
        self.top_k = min(5, num_classes)
        self._edges = np.linspace(0.0, 1.0, CALIBRATION_BINS + 1)
        size = num_classes if num_classes <= MAX_CONFUSION_CLASSES else 0
        self._state: dict[str, NDArray[Any]] = {
            "images": np.zeros(1, np.int64),
            "top1": np.zeros(1, np.int64),
            "topk": np.zeros(1, np.int64),
            "support": np.zeros(num_classes, np.int64),
            "predicted": np.zeros(num_classes, np.int64),
            "hits": np.zeros(num_classes, np.int64),
            "confusion": np.zeros((size, size), np.int64),
            "bin_images": np.zeros(CALIBRATION_BINS, np.int64),
            "bin_hits": np.zeros(CALIBRATION_BINS, np.int64),
            "bin_confidence": np.zeros(CALIBRATION_BINS, np.float64),
            "nll": np.zeros(1, np.float64),
            "brier": np.zeros(1, np.float64),
        }

    @property
    def num_images(self) -> int:
        """Pictures counted so far."""
        return int(self._state["images"][0])

    def update(
        self,
        logits: NDArray[Any],
        labels: NDArray[np.int64],
        *,
        name: Callable[[int], str] = lambda row: f"row {row} of the batch",
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Count one batch and return each picture's predicted class (B,) and its probability (B,).

        name: what to call the picture of a row in a message.
        Raises `IsopatchError` naming the first picture whose logits are not finite; then nothing of the
        batch has been counted. Raises `ValueError` for a wrong shape or a label outside 0..K-1.
        """
        scores = np.asarray(logits, dtype=np.float64)
        if scores.shape != (len(labels), self.num_classes):
            raise ValueError(f"logits {scores.shape}: expected ({len(labels)}, {self.num_classes})")
        if len(labels) == 0:
            return np.zeros(0, np.int64), np.zeros(0, np.float64)
        if labels.min() < 0 or labels.max() >= self.num_classes:
            raise ValueError(f"labels {labels.min()}..{labels.max()} lie outside 0..{self.num_classes - 1}")
        check_finite(scores, name)
        rows = np.arange(len(labels))
        probabilities, log_probabilities = softmax(scores)
        predictions = scores.argmax(axis=1).astype(np.int64)  # the first of equal ones
        confidence = probabilities[rows, predictions]
        hits = predictions == labels
        true = scores[rows, labels][:, None]
        ahead = scores > true
        ahead |= (scores == true) & (np.arange(self.num_classes)[None, :] < labels[:, None])
        bins = np.searchsorted(self._edges, confidence, side="left") - 1
        bins = np.clip(bins, 0, CALIBRATION_BINS - 1)
        true_probability = probabilities[rows, labels]

        state, classes = self._state, self.num_classes
        state["images"] += len(labels)
        state["top1"] += int(hits.sum())
        state["topk"] += int((ahead.sum(axis=1) < self.top_k).sum())
        state["support"] += np.bincount(labels, minlength=classes)
        state["predicted"] += np.bincount(predictions, minlength=classes)
        state["hits"] += np.bincount(labels[hits], minlength=classes)
        if state["confusion"].size:
            np.add.at(state["confusion"], (labels, predictions), 1)
        state["bin_images"] += np.bincount(bins, minlength=CALIBRATION_BINS)
        state["bin_hits"] += np.bincount(bins[hits], minlength=CALIBRATION_BINS)
        state["bin_confidence"] += np.bincount(bins, weights=confidence, minlength=CALIBRATION_BINS)
        state["nll"] -= log_probabilities[rows, labels].sum()
        # sum over classes of (p - y)^2 = sum p^2 - 2 p[true] + 1
        state["brier"] += (np.square(probabilities).sum(axis=1) - 2 * true_probability + 1).sum()
        return predictions, confidence

    def state(self) -> dict[str, NDArray[Any]]:
        """Return a copy of the counts and sums; states of several ranks simply add up."""
        return {key: value.copy() for key, value in self._state.items()}

    def add_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Add another accumulator's `state`; raises `ValueError` where the class counts differ."""
        if state["support"].shape != self._state["support"].shape:
            raise ValueError(
                f"cannot merge metrics of {len(state['support'])} classes into {self.num_classes} classes"
            )
        for key, value in self._state.items():
            value += state[key]

    def merge(self, other: MetricAccumulator) -> None:
        """Count everything `other` counted as well."""
        self.add_state(other.state())

    def scalars(self) -> dict[str, float | int]:
        """Return top1 and top5 (fractions), nll, ece, brier, num_images, num_correct and macro_recall.

        Raises `UsageError` where no picture was counted.
        """
        images = self.num_images
        if images == 0:
            raise UsageError("no picture was evaluated: the split is empty")
        state = self._state
        gap = np.abs(state["bin_hits"] - state["bin_confidence"]).sum()
        present = state["support"] > 0
        return {
            "top1": int(state["top1"][0]) / images,
            "top5": int(state["topk"][0]) / images,
            "nll": float(state["nll"][0]) / images,
            "ece": float(gap) / images,
            "brier": max(0.0, float(state["brier"][0]) / images),
            "num_images": images,
            "num_correct": int(state["top1"][0]),
            "macro_recall": float((state["hits"][present] / state["support"][present]).mean()),
        }

    def per_class(self, names: tuple[str, ...]) -> list[dict[str, Any]]:
        """Return name, precision, recall, f1 and support of each class; None where a ratio is 0 / 0.

        A class without a picture has no recall, a class never predicted has no precision.
        """
        if len(names) != self.num_classes:
            raise ValueError(f"{len(names)} class names for {self.num_classes} classes")
        columns = zip(
            names,
            self._state["hits"].tolist(),
            self._state["predicted"].tolist(),
            self._state["support"].tolist(),
            strict=True,
        )
        return [
            {
                "name": name,
                "precision": hits / predicted if predicted else None,
                "recall": hits / support if support else None,
                "f1": 2 * hits / (support + predicted) if support + predicted else None,
                "support": support,
            }
            for name, hits, predicted, support in columns
        ]

    def confusion(self) -> list[list[int]] | None:
        """Return counts [true][predicted], or None above 4096 classes, where it is not kept."""
        matrix = self._state["confusion"]
        return matrix.tolist() if matrix.size else None

    def calibration(self) -> list[dict[str, float | int | None]]:
        """Return per bin: its upper edge, pictures, mean confidence and accuracy (None where empty)."""
        state = self._state
        return [
            {
                "upper": float(self._edges[index + 1]),
                "images": images,
                "confidence": float(state["bin_confidence"][index]) / images if images else None,
                "accuracy": int(state["bin_hits"][index]) / images if images else None,
            }
            for index, images in enumerate(state["bin_images"].tolist())
        ]


def softmax(scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return softmax and log-softmax over the last axis of finite float64 scores."""
    shifted = scores - scores.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    total = exponentials.sum(axis=-1, keepdims=True)
    return exponentials / total, shifted - np.log(total)


def check_finite(scores: NDArray[np.float64], name: Callable[[int], str]) -> None:
    """Raise `IsopatchError` naming the first row of `scores` that holds a NaN or an infinity."""
    broken = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(broken):
        raise IsopatchError(
            f"{name(int(broken[0]))}: the model's output is not finite ({len(broken)} of {len(scores)} "
            "pictures of this batch); its weights are damaged or the precision overflows, try fp32"
        )
