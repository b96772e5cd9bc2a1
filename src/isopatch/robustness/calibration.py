"""Does the model know when it is wrong: temperature, accuracy on the pictures it is surest of. NumPy only.

N pictures, K classes. logits (N, K), labels (N,). Confidence is the largest probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isopatch.data.split import stratified_cut
from isopatch.errors import UsageError
from isopatch.training.metrics import MetricAccumulator, softmax

COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)
COLDEST, HOTTEST = 0.01, 100.0  # temperatures looked at
CURVE_POINTS = 100

Logits = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]


def nll_of(logits: Logits, labels: Labels, temperature: float = 1.0) -> float:
    """Return the mean of -log p[true] with p = softmax(logits / temperature)."""
    _, log_p = softmax(np.asarray(logits, np.float64) / temperature)
    return float(-log_p[np.arange(len(labels)), labels].mean())


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """Return the T in 0.01..100 that minimises the NLL of softmax(logits / T) (Guo et al. 2017, section 4.2).

    The NLL is convex in 1 / T, so its slope is followed to where it crosses zero, by bisection to 1e-10. An
    end of the range is returned where there is no such place: a model that is never wrong wants T = 0.
    """
    scores = np.asarray(logits, np.float64)
    scores = scores - scores.max(axis=1, keepdims=True)
    true = scores[np.arange(len(labels)), labels]

    def slope(inverse: float) -> float:
        """The derivative of the NLL by 1 / T: the mean of (expected logit - true logit)."""
        p, _ = softmax(scores * inverse)
        return float(((p * scores).sum(axis=1) - true).mean())

    low, high = 1 / HOTTEST, 1 / COLDEST
    if slope(low) >= 0:
        return HOTTEST
    if slope(high) <= 0:
        return COLDEST
    while high - low > 1e-10 * high:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2 / (low + high)


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` returns; `to_json` says what is in it."""

    document: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values.

        before and after (a temperature): num_images, nll, ece, brier and bins, of the half of the pictures
        that the temperature was not fitted on; temperature; fitted_on (pictures); at_the_end (the fit ended
        at an end of its range); selective: see `selective`.
        """
        return self.document


def calibrate(logits: Logits, labels: Labels, *, seed: int = 0) -> Calibration:
    """Fit a temperature on half of the pictures and measure calibration on the other half, before and after.

    The halves are stratified by class and depend on seed. Raises UsageError for fewer than 2 pictures of
    every class, where there are no halves.
    """
    kept, fitted_on = stratified_cut(labels, 0.5, seed, purpose="calibration")
    if not len(fitted_on):
        raise UsageError("calibration: every class has one picture; a half to fit a temperature on needs two")
    scores = np.asarray(logits, np.float64)
    temperature = fit_temperature(scores[fitted_on], labels[fitted_on])
    return Calibration(
        {
            "temperature": temperature,
            "at_the_end": temperature in (COLDEST, HOTTEST),
            "fitted_on": len(fitted_on),
            "before": _figures(scores[kept], labels[kept]),
            "after": _figures(scores[kept] / temperature, labels[kept]),
            "selective": selective(scores, labels),
        }
    )


def _figures(logits: NDArray[np.float64], labels: Labels) -> dict[str, Any]:
    counted = MetricAccumulator(logits.shape[1])
    counted.update(logits, labels)
    scalars = counted.scalars()
    kept = {key: scalars[key] for key in ("num_images", "nll", "ece", "brier")}
    return {**kept, "bins": counted.calibration()}


def selective(logits: Logits, labels: Labels) -> dict[str, Any]:
    """Return what is right among the pictures the model is surest of (El-Yaniv and Wiener 2010).

    Keys: at (coverage, num_images, accuracy, confidence: the least among them) for some coverages; curve:
    [coverage, risk] pairs; aurc: the mean risk over all N coverages i / N (Geifman et al. 2019); ideal_aurc:
    the same where every right answer is surer than every wrong one. Of equally sure pictures, which a
    coverage may part, each counts by the mean of them all, so that the order of the pictures has no say.
    """
    probabilities, _ = softmax(np.asarray(logits, np.float64))
    confidence = probabilities.max(axis=1)
    right = (np.asarray(logits).argmax(axis=1) == labels).astype(np.float64)
    order = np.argsort(-confidence, kind="stable")
    confidence, right = confidence[order], _mean_of_equals(confidence[order], right[order])
    count = np.arange(1, len(right) + 1)
    risk = 1 - np.cumsum(right) / count
    errors = round(float((1 - right).sum()))
    ideal = np.maximum(0, count - (len(right) - errors)) / count
    shown = np.unique(np.ceil(np.linspace(0, 1, CURVE_POINTS + 1)[1:] * len(right)).astype(int))
    at = []
    for coverage in COVERAGES:
        number = max(1, math.ceil(coverage * len(right) - 1e-9))
        at.append(
            {
                "coverage": coverage,
                "num_images": number,
                "accuracy": float(1 - risk[number - 1]),
                "confidence": float(confidence[number - 1]),
            }
        )
    return {
        "at": at,
        "curve": [[number / len(right), float(risk[number - 1])] for number in shown.tolist()],
        "aurc": float(risk.mean()),
        "ideal_aurc": float(ideal.mean()),
    }


def _mean_of_equals(keys: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replace values of equal keys, which stand together, by their mean."""
    _, inverse, counts = np.unique(-keys, return_inverse=True, return_counts=True)
    means: NDArray[np.float64] = (np.bincount(inverse, weights=values) / counts)[inverse]
    return means
