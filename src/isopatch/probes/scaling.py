"""Putting features on one scale by what the training pictures say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

EPSILON = 1e-5  # added to the deviation; big_vision, evaluators/fewshot_lsr.py


@dataclass(frozen=True)
class Scaling:
    """x -> (x - mean) / (std + 1e-5), each (C,), in float64."""

    mean: Matrix
    deviation: Matrix

    def __call__(self, features: NDArray[np.floating]) -> Matrix:
        """Return (N, C) float64."""
        scaled: Matrix = (np.asarray(features, np.float64) - self.mean) / self.deviation
        return scaled


def scaling_of(features: NDArray[np.floating]) -> Scaling:
    """Return the scaling that gives each column of `features` (N, C) mean 0 and deviation (over N) 1."""
    x = np.asarray(features, np.float64)
    return Scaling(x.mean(axis=0), x.std(axis=0) + EPSILON)
