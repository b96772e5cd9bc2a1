"""The skeleton every architecture shares: stem -> blocks -> norm and pool -> heads.

B pictures, N patch tokens, P prefix tokens, C channels, K classes. The skeleton takes built modules; it knows
their order and their names, and has no option about mixing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from isopatch.nn.layout import Grid, as_map
from isopatch.nn.norms import frozen_statistics
from isopatch.nn.position import join
from isopatch.nn.prefix import PrefixTokens


class Features(NamedTuple):
    """What a model sees before its heads.

    tokens: (B, P + N, C), prefix first, after the last block and, where it precedes pooling, the final norm.
    grid: (rows, cols) of the patch tokens. map: the patch tokens as (B, C, rows, cols), a view.
    """

    tokens: Tensor
    grid: Grid
    map: Tensor


class Isotropic(nn.Module):
    """An isotropic patch model made of built parts.

    stem: x -> (tokens, grid). prefix: batch size -> (B, P, C). position: (tokens, prefix, grid) -> tokens;
    it owns where the prefix is joined. blocks: each (tokens, grid) -> tokens. norm: any module over channels.
    pool: (tokens, norm) -> (tokens, features (B, H, C)); it owns where the norm is applied. heads: H modules,
    name -> features (B, C) to logits (B, K).

    spec: what a checkpoint stores about the model (isopatch.models sets it).
    activation_checkpointing: recompute each block in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        *,
        stem: nn.Module,
        blocks: Sequence[nn.Module],
        norm: nn.Module,
        pool: nn.Module,
        heads: Mapping[str, nn.Module],
        prefix: PrefixTokens | None = None,
        position: nn.Module | None = None,
    ) -> None:
        """Put the parts in order."""
        super().__init__()
        assert pool.num_outputs == len(heads), (pool.num_outputs, list(heads))
        self.stem = stem
        self.prefix = prefix
        self.position = position
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.pool = pool
        self.heads = nn.ModuleDict(heads)
        self.spec: Any = None
        self.activation_checkpointing = False

    @property
    def num_prefix(self) -> int:
        """How many prefix tokens stand before the patch tokens."""
        return 0 if self.prefix is None else self.prefix.num_tokens

    @overload
    def forward(self, x: Tensor, heads: Literal[False] = False) -> Tensor: ...

    @overload
    def forward(self, x: Tensor, heads: Literal[True]) -> dict[str, Tensor]: ...

    def forward(self, x: Tensor, heads: bool = False) -> Tensor | dict[str, Tensor]:
        """Classify pictures (B, C_in, H, W): logits (B, K), in training mode too.

        heads: return every head's logits by name instead; otherwise several heads' logits are averaged.
        Raises UsageError (a ValueError) for a picture size that the parts cannot take.
        """
        tokens, _ = self._encode(x)
        _, pooled = self.pool(tokens, self.norm)
        logits = {name: head(pooled[:, index]) for index, (name, head) in enumerate(self.heads.items())}
        if heads:
            return logits
        every = list(logits.values())
        return every[0] if len(every) == 1 else torch.stack(every).mean(dim=0)

    def features(self, x: Tensor) -> Features:
        """Return tokens, grid and feature map of pictures (B, C_in, H, W)."""
        tokens, grid = self._encode(x)
        tokens, _ = self.pool(tokens, self.norm)
        return Features(tokens, grid, as_map(tokens[:, self.num_prefix :], grid))

    def _encode(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Run stem, positions and blocks."""
        tokens: Tensor
        grid: Grid
        tokens, grid = self.stem(x)
        prefix = None if self.prefix is None else self.prefix(tokens.shape[0])
        tokens = join(tokens, prefix) if self.position is None else self.position(tokens, prefix, grid)
        recompute = self.activation_checkpointing and self.training
        for block in self.blocks:
            tokens = _checkpointed(block, tokens, grid) if recompute else block(tokens, grid)
        return tokens, grid


def _checkpointed(block: nn.Module, tokens: Tensor, grid: Grid) -> Tensor:
    """Run a block without keeping its activations; drop path draws the same numbers when it is run again."""
    result: Tensor = checkpoint(
        block,
        tokens,
        grid,
        use_reentrant=False,
        preserve_rng_state=True,
        context_fn=lambda: (contextlib.nullcontext(), frozen_statistics(block)),
    )
    return result
