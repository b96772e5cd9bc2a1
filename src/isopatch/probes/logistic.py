"""Multinomial logistic regression with an L2 penalty, minimised by L-BFGS in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from isopatch.probes.scaling import Scaling, scaling_of

Labels = NDArray[np.int64]

STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # strongest first: each fit starts from the one before
GRADIENT = 1e-6  # largest component of the gradient at which the minimum counts as found
_CHOOSING = 60  # iterations for a strength that is only tried: far enough to rank them


@dataclass(frozen=True)
class Logistic:
    """A fitted classifier. weight: (K, C) and bias (K,) for scaled features. converged: see `GRADIENT`."""

    scale: Scaling
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    l2: float
    converged: bool

    def scores(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return logits (M, K) for features (M, C)."""
        logits: NDArray[np.float64] = self.scale(features) @ self.weight.T + self.bias
        return logits

    def predict(self, features: NDArray[np.floating]) -> Labels:
        """Return (M,) the most probable classes, the first of equal ones."""
        classes: Labels = self.scores(features).argmax(axis=1).astype(np.int64)
        return classes


def fit(
    features: NDArray[np.floating],
    labels: Labels,
    *,
    num_classes: int,
    l2: float,
    start: Logistic | None = None,
    max_iter: int = 1000,
) -> Logistic:
    """Minimise mean cross-entropy + l2 / 2 |W|^2 over W and the bias, which is not penalised.

    features: (N, C), scaled here by their mean and deviation. l2 > 0, so that there is one minimum. In
    scikit-learn's terms C = 1 / (N l2). start: another fit of the same pictures to begin at.
    """
    scale = scaling_of(features)
    x = torch.from_numpy(scale(features))
    y = torch.from_numpy(labels)
    weight = torch.zeros(num_classes, x.shape[1], dtype=torch.float64)
    bias = torch.zeros(num_classes, dtype=torch.float64)
    if start is not None:
        weight, bias = torch.from_numpy(start.weight.copy()), torch.from_numpy(start.bias.copy())
    weight.requires_grad_()
    bias.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_iter,
        tolerance_grad=GRADIENT,
        tolerance_change=1e-14,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(x, weight, bias), y) + 0.5 * l2 * weight.square().sum()
        torch.autograd.backward(value)
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
        loss()
    assert weight.grad is not None
    assert bias.grad is not None
    steepest = max(float(weight.grad.abs().max()), float(bias.grad.abs().max()))
    return Logistic(
        scale, weight.detach().numpy(), bias.detach().numpy(), l2, converged=steepest <= 10 * GRADIENT
    )


def choose(
    features: NDArray[np.floating],
    labels: Labels,
    held_out: NDArray[np.floating],
    held_labels: Labels,
    *,
    num_classes: int,
) -> Logistic:
    """Return a fit of the strength that is best on the held-out pictures, the strongest of equal ones.

    It is not followed to the minimum: start the final fit, of all pictures, from it.
    """
    best, best_right, fitted = None, -1, None
    for l2 in STRENGTHS:
        fitted = fit(features, labels, num_classes=num_classes, l2=l2, start=fitted, max_iter=_CHOOSING)
        right = int((fitted.predict(held_out) == held_labels).sum())
        if right > best_right:
            best, best_right = fitted, right
    assert best is not None
    return best
