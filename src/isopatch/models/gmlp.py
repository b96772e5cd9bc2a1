"""gMLP: a channel MLP whose middle is gated by a linear map over places (Liu et al. 2021, arXiv 2105.08050).

    x -> patches -> depth x ( x + W2 gate(GELU(W1 norm(x))) ) -> norm -> mean -> logits
    gate(z) with z = [u; v]:  u * (S norm(v)^T)^T

Tokens are mixed inside the channel MLP: there is one residual branch per block. Sizes (dim, depth):
Ti 128/30, S 256/30, B 512/30; W1 widens to 6 dim, the gate halves that. Top-1: 72.3, 79.6, 81.6 (paper).
"""

from __future__ import annotations

from torch import Tensor, nn

from isopatch.models import initialise
from isopatch.nn.activations import Activation, make_activation
from isopatch.nn.block import DropPathSchedule, ResidualBranch, drop_path_rates
from isopatch.nn.checks import positive
from isopatch.nn.head import Head
from isopatch.nn.layout import Grid
from isopatch.nn.norms import layer_norm
from isopatch.nn.pool import MeanPool
from isopatch.nn.skeleton import Isotropic
from isopatch.nn.stem import PatchStem, patch_grid
from isopatch.nn.token_mlp import SpatialGate


class GatedMlp(nn.Module):
    """Linear, activation, spatial gate, linear: tokens (B, N, C) -> (B, N, C). hidden: before the gate."""

    def __init__(
        self, grid: Grid, dim: int, hidden: int, *, activation: Activation, dropout: float = 0.0
    ) -> None:
        """Build both layers and the gate."""
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.activation = make_activation(activation)
        self.gate = SpatialGate(grid, hidden)
        self.fc2 = nn.Linear(hidden // 2, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Mix channels and, in the middle, places."""
        hidden = self.gate(self.dropout(self.activation(self.fc1(tokens))), grid)
        mixed: Tensor = self.dropout(self.fc2(hidden))
        return mixed


def gmlp(
    *,
    dim: int,
    depth: int,
    patch_size: int,
    image_size: int | tuple[int, int],
    num_classes: int = 1000,
    in_channels: int = 3,
    mlp_ratio: float = 6.0,
    activation: Activation = "gelu",
    dropout: float = 0.0,
    drop_path: float = 0.0,
    drop_path_schedule: DropPathSchedule = "linear",
) -> Isotropic:
    """Build a gMLP, tied to the grid of `image_size`.

    drop_path: rate of the last block, rising from 0 (the paper: Ti 0, S 0.05, B 0.2; table 3).
    Initialisation: timm's, Xavier-uniform for linear weights with MLP biases normal 1e-6; the gate's map over
    places starts as a constant 1 (weight normal 1e-6, bias 1; paper, section 2.1).
    """
    positive(dim=dim, depth=depth, in_channels=in_channels)
    grid = patch_grid(image_size, patch_size)

    def block(rate: float) -> nn.Module:
        mixer = GatedMlp(grid, dim, int(dim * mlp_ratio), activation=activation, dropout=dropout)
        return ResidualBranch(layer_norm(dim), mixer, dim=dim, drop_path=rate)

    model = Isotropic(
        stem=PatchStem(in_channels, dim, patch_size),
        blocks=[block(rate) for rate in drop_path_rates(drop_path, depth, drop_path_schedule)],
        norm=layer_norm(dim),
        pool=MeanPool(),
        heads={"cls": Head(dim, num_classes)},
    )
    for module in model.modules():
        if isinstance(module, GatedMlp):
            initialise.xavier_mlp(module.fc1, module.fc2)
            open_gate(module.gate)
    initialise.zero_classifiers(model)
    return model


def open_gate(gate: SpatialGate) -> None:
    """Let the gate start as a constant 1, or training is unstable (paper, section 2.1)."""
    nn.init.normal_(gate.linear.weight, std=1e-6)
    nn.init.ones_(gate.linear.bias)


def no_weight_decay(model: Isotropic) -> set[str]:
    """Nothing beside biases and 1-D tensors."""
    return set()
