"""What is minimised."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from isopatch.training.config import ObjectiveConfig


def classification_loss(logits: Tensor, targets: Tensor, objective: ObjectiveConfig) -> Tensor:
    """Mean loss of a batch in float32.

    logits: (B, K); targets: (B, K) probabilities, smoothed and mixed already.
    binary-cross-entropy treats every class present in a mixed target as fully present (DeiT III, section 3).
    """
    logits = logits.float()
    if objective.loss == "binary-cross-entropy":
        return F.binary_cross_entropy_with_logits(logits, targets.gt(0).to(logits.dtype))
    return torch.sum(-targets * F.log_softmax(logits, dim=-1), dim=-1).mean()


def head_logits(heads: dict[str, Tensor]) -> list[Tensor]:
    """The logits the labels supervise: every head's own, each with the same loss.

    Without a teacher both heads of a distilled model learn the true label; with only the first trained, as in
    DeiT's code, the second would stay random and still be averaged in at inference.
    """
    return list(heads.values())
