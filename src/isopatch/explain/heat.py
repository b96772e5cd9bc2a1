"""What every way of making a heat map has in common: pictures in, one map per reader of the model out.

B pictures, K classes; a map is (rows, cols), each cell a rectangle of the picture as the model sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from isopatch.nn.classifier import Classifier

BATCH = 8  # pictures at once where gradients are kept


@dataclass(frozen=True)
class Heat:
    """One map of every picture.

    name: whose map it is ("class token", "prediction"). values: (B, rows, cols) float32, on the CPU.
    signed: whether values below zero mean something: evidence against the class.
    """

    name: str
    values: Tensor
    signed: bool = False


Options = Mapping[str, Any]
# (model, pictures (B, C, H, W), targets (B,) int64, options) -> maps
Method = Callable[[Classifier, Tensor, Tensor, Options], list[Heat]]


def in_batches(
    method: Method, model: Classifier, x: Tensor, targets: Tensor, options: Options, size: int = BATCH
) -> list[Heat]:
    """Run a method on a few pictures at a time."""
    parts = [
        method(model, x[start : start + size], targets[start : start + size], options)
        for start in range(0, len(x), size)
    ]
    return [
        Heat(first.name, torch.cat([part[index].values for part in parts]), first.signed)
        for index, first in enumerate(parts[0])
    ]


def mean_colour(x: Tensor) -> Tensor:
    """Return pictures (B, C, H, W) of one colour each, the mean of x: what stands for "nothing is there"."""
    return x.mean(dim=(2, 3), keepdim=True).expand_as(x)


def target_logits(model: Classifier, x: Tensor, targets: Tensor) -> Tensor:
    """Return the logit (B,) of every picture's target class; several heads' logits are averaged."""
    chosen: Tensor = model(x).gather(1, targets[:, None]).squeeze(1)
    return chosen


@torch.no_grad()
def log_probabilities(model: Classifier, x: Tensor, size: int = 64) -> Tensor:
    """Return log p of every class (B, K), float32, a few pictures at a time."""
    return torch.cat([F.log_softmax(model(part).float(), dim=1) for part in torch.split(x, size)])
