"""A learned bias on the attention logits that depends on where two patches lie relative to each other.

One table per attention layer, one column per head, one row per offset (dy, dx) on the grid: Swin's 2-D form
(Liu et al. 2021, section 3.2, equation 4). The ViT paper's own relative variant (appendix D.4) uses the 1-D
offset of the flattened sequence and a second product with the queries; it found no gain over tables, and no
published weights use it. Prefix tokens have no place on the grid: three more rows serve prefix -> any,
any -> prefix and prefix -> prefix (as in BEiT, Bao et al. 2021, and timm's `vit_relpos_*_cls_*`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isopatch.errors import UsageError
from isopatch.nn.checks import positive
from isopatch.nn.layout import Grid


def relative_index(grid: Grid, num_prefix: int) -> Tensor:
    """Return (P + N, P + N) int64: for query i and key j the row of the table.

    The row of offset (dy, dx) = position(i) - position(j) is (dy + rows - 1) * (2 cols - 1) + dx + cols - 1.
    """
    rows, cols = grid
    y = torch.arange(rows).repeat_interleave(cols)
    x = torch.arange(cols).repeat(rows)
    dy = y[:, None] - y[None, :] + rows - 1
    dx = x[:, None] - x[None, :] + cols - 1
    offsets = (2 * rows - 1) * (2 * cols - 1)
    index = torch.empty(num_prefix + rows * cols, num_prefix + rows * cols, dtype=torch.int64)
    index[num_prefix:, num_prefix:] = dy * (2 * cols - 1) + dx
    index[:num_prefix] = offsets
    index[num_prefix:, :num_prefix] = offsets + 1
    index[:num_prefix, :num_prefix] = offsets + 2
    return index


class RelativeBias(nn.Module):
    """grid -> bias (1, heads, P + N, P + N) for the attention logits.

    table: ((2 rows - 1)(2 cols - 1) [+ 3 with prefix tokens], heads); the architecture initialises it.
    """

    index: Tensor

    def __init__(self, grid: Grid, num_heads: int, *, num_prefix: int = 0) -> None:
        """Build the table for one grid."""
        super().__init__()
        positive(rows=grid[0], cols=grid[1], num_heads=num_heads)
        self.grid = grid
        self.num_extra = 3 if num_prefix else 0
        offsets = (2 * grid[0] - 1) * (2 * grid[1] - 1)
        self.table = nn.Parameter(torch.zeros(offsets + self.num_extra, num_heads))
        self.register_buffer("index", relative_index(grid, num_prefix), persistent=False)

    def forward(self, grid: Grid) -> Tensor:
        """Return the bias; raises UsageError for another grid than the table's."""
        if grid != self.grid:
            raise UsageError(
                f"relative positions were built for a {self.grid[0]}x{self.grid[1]} grid, the picture gives "
                f"{grid[0]}x{grid[1]}: pass image_size when the model is built or loaded"
            )
        return self.table[self.index].permute(2, 0, 1).contiguous().unsqueeze(0)
