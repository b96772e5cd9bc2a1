"""Does a map depend on what the model has learned? The same map of a model with shuffled weights.

Adebayo et al. 2018, Sanity checks for saliency maps, section 3: a method whose maps stay the same when the
parameters are randomised shows the picture, not the model. Every parameter's values are shuffled within their
tensor, which keeps their scale (a fresh initialisation of a classifier that starts at zero has no gradients
to make a map of); BatchNorm's statistics stay.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn import functional as F

from isopatch.nn.classifier import Classifier

SHUFFLES = 3
# Of Spearman's rank correlation, its absolute value, averaged over the shuffles. From here on a map of a
# model that knows nothing has at least a quarter of the ranks' variance in common with the model's own
# (0.5 squared). For maps without anything in common it is about 0.8 / sqrt(cells - 1): 0.2 at 16 cells.
MOST_ALIKE = 0.5


def shuffled(model: Classifier, seed: int) -> Classifier:
    """Return a copy of the model with the values of every parameter tensor in another order."""
    twin = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in twin.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return twin.eval()


def spearman(first: Tensor, second: Tensor) -> float | None:
    """Return the rank correlation of two maps (rows, cols); ties share their mean rank.

    0.0 where only one of them is constant: what one shows is gone from the other. None where both are, or
    where a value is not finite.
    """
    if first.shape != second.shape:
        second = F.interpolate(second[None, None], size=first.shape)[0, 0]
    if not bool((first.isfinite() & second.isfinite()).all()):
        return None
    one, other = ranks(first.flatten()), ranks(second.flatten())
    scale = one.norm() * other.norm()
    if scale == 0:
        return None if one.norm() == other.norm() else 0.0
    return float((one * other).sum() / scale)


def ranks(values: Tensor) -> Tensor:
    """Return the ranks (n,) around their mean, float64; equal values share the mean of their ranks."""
    _, group, counts = torch.unique(values.double(), return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    found: Tensor = (ends - (counts - 1) / 2)[group]
    return found - found.mean()
