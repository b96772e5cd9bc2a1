"""The classifier on top of one pooled feature."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isopatch.nn.checks import positive


class Head(nn.Module):
    """features (B, C) -> logits (B, K).

    pre_logits: a dense layer of the same width and tanh before the classifier, as in the ImageNet-21k
    pretraining of Dosovitskiy et al. 2020 (section 3.2: an MLP with one hidden layer).
    """

    def __init__(self, dim: int, num_classes: int, *, pre_logits: bool = False) -> None:
        """Build the classifier for `num_classes` classes."""
        super().__init__()
        positive(num_classes=num_classes)
        self.pre_logits = nn.Linear(dim, dim) if pre_logits else None
        self.linear = nn.Linear(dim, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, K)."""
        if self.pre_logits is not None:
            features = torch.tanh(self.pre_logits(features))
        logits: Tensor = self.linear(features)
        return logits
