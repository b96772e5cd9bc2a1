"""Feature distillation's own part: a linear map from the student's channels to the teacher's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isopatch.nn.classifier import Classifier


class TaughtStudent(nn.Module):
    """A student and the projection of its feature map, in one forward pass.

    The projection is trained with the student, saved in checkpoints, and no part of the model.
    """

    def __init__(self, model: Classifier, projector: nn.Module) -> None:
        """projector: (B, C student, h, w) -> (B, C teacher, h, w)."""
        super().__init__()
        self.model = model
        self.projector = projector

    def forward(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return every head's logits, and the projected feature map."""
        assert isinstance(self.model, Classifier)
        features, pooled = self.model.encode(x)
        return self.model.head_logits(pooled), self.projector(features.map)


def make_projector(student: Classifier, teacher: Classifier) -> nn.Conv2d:
    """Build the projection for two models, initialised from the global generator."""
    return nn.Conv2d(_channels(student), _channels(teacher), kernel_size=1)


def _channels(model: Classifier) -> int:
    contract, before = model.spec.input, model.training
    picture = torch.zeros(1, 3, contract.height, contract.width, device=next(model.parameters()).device)
    with torch.no_grad():
        channels = model.eval().features(picture).map.shape[1]
    model.train(before)
    return channels
