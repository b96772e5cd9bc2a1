"""Three ways of mixing the same tokens, weighted per channel and picture (Hou et al. 2021, section 3.2).

    weights = softmax over branches of W2 GELU(W1 mean over places of (a + b + c)), three per channel
    result  = W (weights_a a + weights_b b + weights_c c) + bias

Vision Permutator and CycleMLP end their token mixing so; the idea is split attention's (ResNeSt, Zhang 2020).
"""

from __future__ import annotations

from torch import Tensor, nn

from isopatch.nn.activations import Activation, make_activation
from isopatch.nn.checks import positive

BRANCHES = 3


class WeightedBranches(nn.Module):
    """Three branches (B, N, C) -> one (B, N, C): softmax weights from their mean, then a linear layer.

    The hidden width of the weights' MLP is C / 4, as in the authors' code of both models.
    """

    def __init__(self, dim: int, *, activation: Activation = "gelu") -> None:
        """Build the MLP of the weights and the projection."""
        super().__init__()
        positive(dim=dim, branch_weights_hidden=dim // 4)
        self.fc1 = nn.Linear(dim, dim // 4)
        self.activation = make_activation(activation)
        self.fc2 = nn.Linear(dim // 4, dim * BRANCHES)
        self.proj = nn.Linear(dim, dim)

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """Weigh, sum and project."""
        mean = (a + b + c).mean(dim=1)
        scores = self.fc2(self.activation(self.fc1(mean)))  # channels outside, branches inside
        weights = scores.unflatten(1, (-1, BRANCHES)).softmax(dim=2).unsqueeze(1)  # B, 1, C, branches
        mixed: Tensor = self.proj(a * weights[..., 0] + b * weights[..., 1] + c * weights[..., 2])
        return mixed
