"""One step of a block with every place its norm and its activation can have, and a skip around two steps.

The general form of `ResidualBranch`, whose names it keeps (norm, mixer, scale), for studies of where things
stand. tokens (B, N, C), grid (rows, cols).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from isopatch.nn.block import drop_path as drop_branch
from isopatch.nn.checks import finite, probability
from isopatch.nn.layout import Grid

NormPlace = Literal["before", "after-mixer", "after-activation", "after-sum"]


class Skip(nn.Module):
    """tokens + drop_path(scale * branch), as in `ResidualBranch`."""

    def __init__(self, dim: int, *, layer_scale: float | None = None, drop_path: float = 0.0) -> None:
        """layer_scale: initial value of a factor per channel, None for none. drop_path: a rate in [0, 1)."""
        super().__init__()
        probability(drop_path=drop_path)
        if layer_scale is not None:
            finite(layer_scale=layer_scale)
        self.scale = None if layer_scale is None else nn.Parameter(torch.full((dim,), float(layer_scale)))
        self.drop_path = drop_path

    def add(self, tokens: Tensor, branch: Tensor) -> Tensor:
        """Add a branch to the tokens it started from."""
        if self.scale is not None:
            branch = branch * self.scale
        if self.training and self.drop_path > 0:
            branch = drop_branch(branch, self.drop_path)
        return tokens + branch


class Step(Skip):
    """A mixer with its norm, its activation and perhaps a skip.

    norm_place: "before" the mixer (ViT); "after-mixer", before the activation; "after-activation"
        (ConvMixer); "after-sum", after the skip is added (the first transformers' post-norm). Without an
        activation "after-mixer" and "after-activation" are the same function.
    activation: after the mixer; nn.Identity for none. skip: whether the tokens are added.
    """

    def __init__(
        self,
        norm: nn.Module,
        mixer: nn.Module,
        *,
        dim: int,
        norm_place: NormPlace = "before",
        activation: nn.Module | None = None,
        skip: bool = True,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        """layer_scale, drop_path: of the skip, without one they have no meaning."""
        super().__init__(dim, layer_scale=layer_scale, drop_path=drop_path)
        assert skip or (layer_scale is None and drop_path == 0 and norm_place != "after-sum")
        self.norm = norm
        self.mixer = mixer
        self.activation = nn.Identity() if activation is None else activation
        self.norm_place = norm_place
        self.skip = skip

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Run the step."""
        branch: Tensor = self.norm(tokens) if self.norm_place == "before" else tokens
        branch = self.mixer(branch, grid)
        if self.norm_place == "after-mixer":
            branch = self.norm(branch)
        branch = self.activation(branch)
        if self.norm_place == "after-activation":
            branch = self.norm(branch)
        if self.skip:
            branch = self.add(tokens, branch)
        return self.norm(branch) if self.norm_place == "after-sum" else branch


class SkipBlock(Skip):
    """A token step and a channel step, one skip around both (the pattern of gMLP's block)."""

    def __init__(
        self,
        token: Step,
        channel: Step,
        *,
        dim: int,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        """token, channel: without skips of their own."""
        super().__init__(dim, layer_scale=layer_scale, drop_path=drop_path)
        assert not token.skip and not channel.skip
        self.token = token
        self.channel = channel

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Mix tokens, then channels, then add."""
        return self.add(tokens, self.channel(self.token(tokens, grid), grid))
