"""A pyramid of the blocks that isotropic models have: stem -> stages -> norm and pool -> head.

Between two stages 2 x 2 neighbours are merged: half the rows and columns, another width. For studies of what
one resolution throughout costs or gains; blocks, stem, positions and pool are those of `Isotropic`.
There are no prefix tokens: they have no neighbours to be merged with.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from isopatch.errors import UsageError
from isopatch.nn.checks import positive
from isopatch.nn.classifier import Classifier, Encoded, Features
from isopatch.nn.layout import Grid, as_map, as_tokens
from isopatch.nn.recompute import recomputed
from isopatch.nn.strided import StridedConv2d


def merged_grid(grid: Grid) -> Grid:
    """Return the grid of 2 x 2 neighbours; one with an odd side raises UsageError."""
    if grid[0] % 2 or grid[1] % 2:
        raise UsageError(
            f"a stage of {grid[0]}x{grid[1]} patches cannot be merged 2x2: take another image_size or "
            f"patch_size, or fewer stages"
        )
    return grid[0] // 2, grid[1] // 2


class PatchMerge(nn.Module):
    """Norm, then a linear map of each 2 x 2 neighbours' channels (Liu et al. 2022, ConvNeXt, section 2.6).

    (tokens (B, N, C), grid) -> (tokens (B, N / 4, out_dim), grid). The patch projection of a feature map:
    Swin's merging norms the joined 4 C channels instead.
    """

    def __init__(self, dim: int, out_dim: int, norm: nn.Module) -> None:
        """norm: of tokens of width `dim`."""
        super().__init__()
        positive(dim=dim, out_dim=out_dim)
        self.norm = norm
        self.conv = StridedConv2d(dim, out_dim, kernel_size=2, stride=2)

    def forward(self, tokens: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        """Merge; a grid with an odd side raises UsageError."""
        merged = merged_grid(grid)
        return as_tokens(self.conv(as_map(self.norm(tokens), grid))), merged


class Stage(nn.Module):
    """Blocks at one resolution, a merging step before them in every stage but the first."""

    def __init__(self, blocks: Sequence[nn.Module], *, merge: PatchMerge | None = None) -> None:
        """blocks: each (tokens, grid) -> tokens."""
        super().__init__()
        self.merge = merge
        self.blocks = nn.ModuleList(blocks)


class Pyramid(Classifier):
    """A pyramid made of built parts; the parts are those of `Isotropic`."""

    def __init__(
        self,
        *,
        stem: nn.Module,
        stages: Sequence[Stage],
        norm: nn.Module,
        pool: nn.Module,
        heads: Mapping[str, nn.Module],
        position: nn.Module,
    ) -> None:
        """norm: over the channels of the last stage."""
        super().__init__()
        assert pool.num_outputs == len(heads), (pool.num_outputs, list(heads))
        self.stem = stem
        self.position = position
        self.stages = nn.ModuleList(stages)
        self.norm = norm
        self.pool = pool
        self.heads = nn.ModuleDict(heads)

    def encode(self, x: Tensor) -> Encoded:
        """Run everything but the heads."""
        tokens, grid = self._encode(x)
        tokens, pooled = self.pool(tokens, self.norm)
        return Encoded(_features(tokens, grid), pooled)

    def features_by_depth(self, x: Tensor) -> Iterator[Features]:
        """Yield what leaves the stem, then each block; a merging step belongs to the block after it."""
        return (_features(tokens, grid) for tokens, grid in self._run(x))

    def _encode(self, x: Tensor) -> tuple[Tensor, Grid]:
        return deque(self._run(x), maxlen=1).pop()  # a list would keep every depth alive

    def _run(self, x: Tensor) -> Iterator[tuple[Tensor, Grid]]:
        """Yield tokens and grid after the stem and after each block."""
        recompute = self.activation_checkpointing and self.training
        tokens, grid = self.stem(x)
        tokens = self.position(tokens, None, grid)
        yield tokens, grid
        for stage in self.stages:
            assert isinstance(stage, Stage)
            if stage.merge is not None:
                tokens, grid = stage.merge(tokens, grid)
            for block in stage.blocks:
                tokens = recomputed(block, tokens, grid) if recompute else block(tokens, grid)
                yield tokens, grid


def _features(tokens: Tensor, grid: Grid) -> Features:
    return Features(tokens, grid, as_map(tokens, grid))
