"""The skeleton every architecture shares: stem -> blocks -> norm and pool -> heads.

B pictures, N patch tokens, P prefix tokens, C channels, K classes. The skeleton takes built modules; it knows
their order and their names, and has no option about mixing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from isopatch.nn.blocks import Blocks
from isopatch.nn.classifier import Classifier, Encoded
from isopatch.nn.classifier import Features as Features
from isopatch.nn.layout import Grid, as_map
from isopatch.nn.position import join
from isopatch.nn.prefix import PrefixTokens


class Isotropic(Classifier):
    """An isotropic patch model made of built parts.

    stem: x -> (tokens, grid). prefix: batch size -> (B, P, C). position: (tokens, prefix, grid) -> tokens;
    it owns where the prefix is joined. blocks: each (tokens, grid) -> tokens. norm: any module over channels.
    pool: (tokens, norm) -> (tokens, features (B, H, C)); it owns where the norm is applied. heads: H modules,
    name -> features (B, C) to logits (B, K).
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
        self.blocks = Blocks(blocks)
        self.norm = norm
        self.pool = pool
        self.heads = nn.ModuleDict(heads)

    @property
    def num_prefix(self) -> int:
        """How many prefix tokens stand before the patch tokens."""
        return 0 if self.prefix is None else self.prefix.num_tokens

    def encode(self, x: Tensor) -> Encoded:
        """Run everything but the heads."""
        tokens, grid = self._encode(x)
        tokens, pooled = self.pool(tokens, self.norm)
        return Encoded(self._features(tokens, grid), pooled)

    def features_by_depth(self, x: Tensor) -> Iterator[Features]:
        """Yield what leaves the stem with prefix and positions, then each block."""
        tokens, grid = self._embed(x)
        yield self._features(tokens, grid)
        for block in self.blocks:
            tokens = block(tokens, grid)
            yield self._features(tokens, grid)

    def _features(self, tokens: Tensor, grid: Grid) -> Features:
        return Features(tokens, grid, as_map(tokens[:, self.num_prefix :], grid))

    def _embed(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Run the stem; join prefix and positions."""
        tokens: Tensor
        grid: Grid
        tokens, grid = self.stem(x)
        prefix = None if self.prefix is None else self.prefix(tokens.shape[0])
        return join(tokens, prefix) if self.position is None else self.position(tokens, prefix, grid), grid

    def _encode(self, x: Tensor) -> tuple[Tensor, Grid]:
        """Run stem, positions and blocks."""
        tokens, grid = self._embed(x)
        recompute = self.activation_checkpointing and self.training
        return self.blocks(tokens, grid, recompute=recompute), grid
