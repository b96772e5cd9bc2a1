"""What is minimised. Logits are (B, K) for B pictures and K classes; every loss is a mean over the batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from isopatch.training.config import ObjectiveConfig
from isopatch.training.distill_config import DistillConfig


def classification_loss(logits: Tensor, targets: Tensor, objective: ObjectiveConfig) -> Tensor:
    """Mean loss of a batch in float32.

    logits: (B, K); targets: (B, K) probabilities, smoothed and mixed already.
    binary-cross-entropy treats every class present in a mixed target as fully present (DeiT III, section 3).
    """
    logits = logits.float()
    if objective.loss == "binary-cross-entropy":
        return F.binary_cross_entropy_with_logits(logits, targets.gt(0).to(logits.dtype))
    return torch.sum(-targets * F.log_softmax(logits, dim=-1), dim=-1).mean()


def labels_loss(heads: Mapping[str, Tensor], targets: Tensor, objective: ObjectiveConfig) -> Tensor:
    """The mean over all heads of each one's loss against the labels: training without a teacher.

    Both heads of a model with a distillation token learn the true label then, which is the paper's control
    with two class tokens (DeiT, section 4); with only the first trained, as in DeiT's code, the second would
    stay random and still be averaged in at inference.
    """
    return torch.stack([classification_loss(logits, targets, objective) for logits in heads.values()]).mean()


def distillation_loss(
    heads: Mapping[str, Tensor],
    targets: Tensor,
    teacher: Tensor,
    objective: ObjectiveConfig,
    distill: DistillConfig,
) -> Tensor:
    """The weighted sum of the label's and the teacher's terms (DeiT, equations 2 and 3).

    heads: the student's logits. With a head `dist` (the distillation token's) the teacher speaks to it
    and the labels to `cls`; otherwise both speak to `cls`. teacher: its logits (B, K) for the same pictures.
    """
    weights = distill.weights
    taught = heads.get("dist", heads["cls"])
    loss = taught.new_zeros((), dtype=torch.float32)
    if weights.label > 0:
        loss = loss + weights.label * classification_loss(heads["cls"], targets, objective)
    if weights.hard > 0:
        loss = loss + weights.hard * hard_distillation(taught, teacher)
    if weights.soft > 0:
        per_class = distill.convention == "deit-code"
        loss = loss + weights.soft * soft_distillation(taught, teacher, distill.tau, per_class=per_class)
    return loss


def hard_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy against the class the teacher decides for, without smoothing (DeiT, equation 3)."""
    return F.cross_entropy(student.float(), teacher.argmax(dim=-1))


def soft_distillation(student: Tensor, teacher: Tensor, temperature: float, *, per_class: bool) -> Tensor:
    """temperature^2 times the divergence KL(teacher || student) of the softened probabilities, in float32.

    per_class: divided by B K as facebookresearch/deit does, otherwise by B (Hinton et al. 2015; DeiT,
    equation 2): with 1000 classes the first is a thousandth of the second.
    """
    divergence = F.kl_div(
        F.log_softmax(student.float() / temperature, dim=-1),
        F.log_softmax(teacher.float() / temperature, dim=-1),
        reduction="sum",
        log_target=True,
    )
    return divergence * temperature**2 / (student.numel() if per_class else len(student))


def feature_distillation(projected: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance of feature maps (B, C, h, w); the teacher's is resampled to the student's grid.

    projected: the student's, projected to the teacher's channels. Both are compared in float32.
    """
    wanted = teacher.float()
    if wanted.shape[2:] != projected.shape[2:]:
        wanted = F.interpolate(wanted, size=projected.shape[2:], mode="bilinear", antialias=True)
    return F.mse_loss(projected.float(), wanted)
