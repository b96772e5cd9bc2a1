"""Parts that mix the channels of each token: (tokens (B, N, C), grid) -> (B, N, C)."""

from __future__ import annotations

from torch import Tensor, nn

from isopatch.nn.activations import Activation, make_activation
from isopatch.nn.checks import positive
from isopatch.nn.layout import Grid


class Mlp(nn.Module):
    """Two linear layers with an activation between; dropout after each.

    Dosovitskiy et al. 2020, section 3.1. hidden: width between the two, 4 * dim in every published ViT.
    """

    def __init__(
        self, dim: int, hidden: int, *, activation: Activation = "gelu", dropout: float = 0.0
    ) -> None:
        """Build both layers with bias."""
        super().__init__()
        positive(dim=dim, mlp_hidden=hidden)
        self.fc1 = nn.Linear(dim, hidden)
        self.activation = make_activation(activation)
        self.fc2 = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Mix the channels; the grid plays no part."""
        hidden = self.dropout(self.activation(self.fc1(tokens)))
        mixed: Tensor = self.dropout(self.fc2(hidden))
        return mixed
