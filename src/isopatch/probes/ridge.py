"""Ridge regression of features to {-1, 1}^K in closed form, and the two named settings of it.

ViT (Dosovitskiy et al. 2021, section 4.1) measures frozen representations by regularised least squares to
{-1, 1}^K targets, solved in closed form, and states neither preprocessing nor strength. Its authors' code
(big_vision, evaluators/fewshot_lsr.py) scales each feature by mean and deviation of the pictures it learns
from (+ 1e-5), adds a constant feature of 100, so that the bias is hardly regularised, and takes one strength.

big_vision  that, with the strength 2^10 of its configurations.
vit         that, with the strength chosen from 2^-10 .. 2^20 on training pictures set apart. The authors'
            earlier public configurations search 2^-10 .. 2^19 and choose on other data sets, which a single
            data set does not have.

In both, pictures are prepared as the model's input contract says (big_vision: resized to 256, centre 224),
and our own hash draws the shots, so they are other pictures than big_vision's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isopatch.errors import UsageError, nearest
from isopatch.probes.scaling import scaling_of

Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Setting:
    """A named way to do the regression. bias: value of the constant feature. l2: strengths to choose from."""

    name: str
    bias: float
    l2: tuple[float, ...]


SETTINGS = {
    "vit": Setting("vit", 100.0, tuple(2.0**power for power in range(-10, 21))),
    "big_vision": Setting("big_vision", 100.0, (2.0**10,)),
}


def setting_of(name: str) -> Setting:
    """Return the setting called `name`; raises UsageError with the nearest that exists."""
    if name not in SETTINGS:
        raise UsageError(f"ridge setting '{name}': there are {', '.join(SETTINGS)}{nearest(name, SETTINGS)}")
    return SETTINGS[name]


class Ridge:
    """argmin over W of |X W - Y|^2 + l2 |W|^2 for every l2 > 0, from one eigendecomposition.

    X: (N, C + 1), the scaled features and the constant; Y: (N, K) of -1 and 1. With N > C the normal
    equations (X'X + l2) W = X'Y are solved, else W = X' (XX' + l2)^-1 Y, which is the same.
    """

    def __init__(
        self, features: NDArray[np.floating], labels: Labels, num_classes: int, *, bias: float
    ) -> None:
        """features: (N, C), unscaled. labels: (N,) below num_classes."""
        self._scale = scaling_of(features)
        self._bias = bias
        x = self._with_bias(features)
        targets = np.where(labels[:, None] == np.arange(num_classes), 1.0, -1.0)
        if len(x) >= x.shape[1]:
            self._values, basis = np.linalg.eigh(x.T @ x)
            self._left, self._right = basis, basis.T @ (x.T @ targets)
        else:
            self._values, basis = np.linalg.eigh(x @ x.T)
            self._left, self._right = x.T @ basis, basis.T @ targets

    def weights(self, l2: float) -> Matrix:
        """Return W (C + 1, K); its last row belongs to the constant feature."""
        weights: Matrix = (self._left / (self._values + l2)) @ self._right
        return weights

    def scores(self, features: NDArray[np.floating], l2: float) -> Matrix:
        """Return (M, K) for features (M, C)."""
        scores: Matrix = self._with_bias(features) @ self.weights(l2)
        return scores

    def predict(self, features: NDArray[np.floating], l2: float) -> Labels:
        """Return (M,) the class of the largest score, the first of equal ones."""
        classes: Labels = self.scores(features, l2).argmax(axis=1).astype(np.int64)
        return classes

    def best_l2(self, strengths: tuple[float, ...], features: NDArray[np.floating], labels: Labels) -> float:
        """Return the strength that classifies these pictures best; the strongest of equally good ones."""
        if len(strengths) == 1:
            return strengths[0]
        x = self._with_bias(features)
        right = {l2: int(((x @ self.weights(l2)).argmax(axis=1) == labels).sum()) for l2 in strengths}
        return max(strengths, key=lambda l2: (right[l2], l2))

    def _with_bias(self, features: NDArray[np.floating]) -> Matrix:
        x = self._scale(features)
        return np.concatenate([x, np.full((len(x), 1), self._bias)], axis=1)
