"""Probes that learn from every training picture: ridge, nearest neighbours, logistic regression, SGD."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isopatch.data.split import stratified_cut
from isopatch.errors import UsageError
from isopatch.probes import linear, logistic, neighbours
from isopatch.probes.ridge import Ridge, Setting
from isopatch.report.intervals import wilson

log = logging.getLogger("isopatch")

HELD_OUT = 0.1  # of the training pictures of each class, to choose a strength or a learning rate on
Labels = NDArray[np.int64]
Row = dict[str, Any]


@dataclass(frozen=True)
class Sets:
    """What a probe learns from and is measured on: features (N, C), labels (N,) below num_classes."""

    train: NDArray[np.float32]
    train_labels: Labels
    test: NDArray[np.float32]
    test_labels: Labels
    num_classes: int

    def cut(self) -> tuple[Labels, Labels]:
        """Return (kept, held out): indices of training pictures, a tenth of each class held out.

        Raises UsageError where every class is too small to hold a picture out.
        """
        kept, held = stratified_cut(self.train_labels, HELD_OUT, 0, purpose="probe")
        if not len(held):
            raise UsageError(
                f"--probe: {len(self.train)} training pictures of {self.num_classes} classes are too few to "
                f"choose on; probe with few-shot or knn"
            )
        return kept, held

    def row(self, setting: str, predicted: Labels, **more: Any) -> Row:
        """Return one line of the result: setting, top1 with Wilson's 95 % interval, and `more`."""
        correct = int((predicted == self.test_labels).sum())
        return {
            "setting": setting,
            "top1": correct / len(self.test),
            "interval": list(wilson(correct, len(self.test))),
            "num_correct": correct,
            "num_images": len(self.test),
            "training_pictures": len(self.train),
            **more,
        }


def ridge(sets: Sets, settings: Sequence[Setting]) -> list[Row]:
    """Ridge regression; a strength is chosen on a tenth of the training pictures, all are learned from."""
    rows = []
    for setting in settings:
        l2 = setting.l2[0]
        if len(setting.l2) > 1:
            kept, held = sets.cut()
            part = Ridge(sets.train[kept], sets.train_labels[kept], sets.num_classes, bias=setting.bias)
            l2 = part.best_l2(setting.l2, sets.train[held], sets.train_labels[held])
        whole = Ridge(sets.train, sets.train_labels, sets.num_classes, bias=setting.bias)
        rows.append(sets.row(setting.name, whole.predict(sets.test, l2), l2=l2))
    return rows


def knn(sets: Sets, ks: Sequence[int]) -> list[Row]:
    """Weighted nearest neighbours for every k that there are training pictures for.

    Raises UsageError where there is no such k.
    """
    possible = [k for k in dict.fromkeys(ks) if k <= len(sets.train)]
    if not possible:
        raise UsageError(
            f"--probe-k {min(ks)}: there are {len(sets.train)} training pictures; give a smaller k"
        )
    left_out = [k for k in dict.fromkeys(ks) if k > len(sets.train)]
    if left_out:
        log.warning("knn: no k = %s, there are %d training pictures", left_out, len(sets.train))
    predicted = neighbours.predict(
        sets.train, sets.train_labels, sets.test, num_classes=sets.num_classes, ks=possible
    )
    return [sets.row(f"k = {k}", predicted[k], k=k) for k in possible]


def logistic_regression(sets: Sets) -> list[Row]:
    """Logistic regression; the strength is chosen on a tenth, then all are learned from."""
    kept, held = sets.cut()
    labels, classes = sets.train_labels, sets.num_classes
    tried = logistic.choose(
        sets.train[kept], labels[kept], sets.train[held], labels[held], num_classes=classes
    )
    fitted = logistic.fit(sets.train, labels, num_classes=classes, l2=tried.l2, start=tried)
    if not fitted.converged:
        log.warning("logistic probe: the minimum was not reached; its accuracy is that of the last step")
    predicted = fitted.predict(sets.test)
    return [sets.row(f"L2 {fitted.l2:g}", predicted, l2=fitted.l2, converged=fitted.converged)]


def linear_sgd(sets: Sets) -> list[Row]:
    """SGD; the learning rate is chosen on a tenth of the training pictures, then all are learned from."""
    kept, held = sets.cut()
    labels, classes = sets.train_labels, sets.num_classes
    tried = linear.fit(sets.train[kept], labels[kept], num_classes=classes)
    right = {
        rate: int((predicted == labels[held]).sum())
        for rate, predicted in tried.predict(sets.train[held]).items()
    }
    rate = max(right, key=lambda rate: (right[rate], -rate))
    whole = linear.fit(sets.train, labels, num_classes=classes, rates=(rate,))
    return [sets.row(f"rate {rate:g}", whole.predict(sets.test)[rate], rate=rate)]


FULL: dict[str, Callable[[Sets], list[Row]]] = {
    "logistic": logistic_regression,
    "linear": linear_sgd,
}
