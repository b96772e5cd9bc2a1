"""Parts that mix the channels of each token: (tokens (B, N, C), grid) -> (B, N, C)."""

from __future__ import annotations

from torch import Tensor, nn

from isopatch.nn.activations import Activation, make_activation
from isopatch.nn.checks import positive
from isopatch.nn.layout import Grid, as_map, as_tokens


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


class GatedLinear(nn.Module):
    """A gated MLP: the activation of one half of the hidden units scales the other half (Shazeer 2020, GLU).

    hidden: width of each half; three matrices of dim * hidden where `Mlp` has two.
    """

    def __init__(
        self, dim: int, hidden: int, *, activation: Activation = "gelu", dropout: float = 0.0
    ) -> None:
        """Build both layers with bias."""
        super().__init__()
        positive(dim=dim, mlp_hidden=hidden)
        self.fc1 = nn.Linear(dim, 2 * hidden)
        self.activation = make_activation(activation)
        self.fc2 = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Mix the channels; the grid plays no part."""
        gate, passed = self.fc1(tokens).chunk(2, dim=-1)
        mixed: Tensor = self.dropout(self.fc2(self.dropout(self.activation(gate) * passed)))
        return mixed


class Pointwise(nn.Module):
    """One 1 x 1 convolution, a linear layer over channels (ConvMixer's channel step)."""

    def __init__(self, dim: int) -> None:
        """Build the convolution with bias."""
        super().__init__()
        positive(dim=dim)
        self.conv = nn.Conv2d(dim, dim, kernel_size=1)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Mix the channels of every token, prefix included."""
        return as_tokens(self.conv(as_map(tokens, (1, tokens.shape[1]))))
