"""Position modules: where each patch lies, and where the prefix tokens are joined.

(patch tokens (B, N, C), prefix (B, P, C) or None, grid) -> tokens (B, P + N, C), prefix first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isopatch.errors import UsageError
from isopatch.nn.checks import divisible, positive, probability
from isopatch.nn.layout import Grid


def join(tokens: Tensor, prefix: Tensor | None) -> Tensor:
    """Put the prefix before the patch tokens."""
    return tokens if prefix is None else torch.cat((prefix, tokens), dim=1)


class NoPositions(nn.Module):
    """Only joins the prefix: the model is blind to order, or learns it elsewhere (relative bias)."""

    def __init__(self, *, dropout: float = 0.0) -> None:
        """dropout: of the tokens that enter the first block."""
        super().__init__()
        probability(dropout=dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, prefix: Tensor | None, grid: Grid) -> Tensor:
        """Return (B, P + N, C)."""
        joined: Tensor = self.dropout(join(tokens, prefix))
        return joined


class LearnedPositions(nn.Module):
    """One learned vector per place (ViT's 1-D table): table (1, prefix_entries + N, C).

    prefix_entries: P when prefix tokens have entries of their own (ViT and DeiT join the prefix, then add);
        0 when they have none (DeiT III and big_vision add, then join).
    """

    def __init__(self, grid: Grid, dim: int, *, prefix_entries: int = 0, dropout: float = 0.0) -> None:
        """Build a table for one grid; the architecture initialises it."""
        super().__init__()
        positive(rows=grid[0], cols=grid[1], dim=dim)
        probability(dropout=dropout)
        self.grid = grid
        self.prefix_entries = prefix_entries
        self.table = nn.Parameter(torch.zeros(1, prefix_entries + grid[0] * grid[1], dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, prefix: Tensor | None, grid: Grid) -> Tensor:
        """Return (B, P + N, C); raises UsageError for another grid than the table's."""
        require_grid(self.grid, grid)
        if self.prefix_entries:
            positioned: Tensor = self.dropout(join(tokens, prefix) + self.table)
        else:
            positioned = self.dropout(join(tokens + self.table, prefix))
        return positioned


class LearnedAxisPositions(nn.Module):
    """Learned 2-D positions: half of the channels hold a vector for the column, half for the row.

    x (1, cols, C / 2), y (1, rows, C / 2); the prefix has no entry. Dosovitskiy et al. 2020, appendix D.4.
    """

    def __init__(self, grid: Grid, dim: int, *, dropout: float = 0.0) -> None:
        """Build both tables; raises UsageError when `dim` is odd."""
        super().__init__()
        positive(rows=grid[0], cols=grid[1], dim=dim)
        probability(dropout=dropout)
        divisible("dim", dim, "the two axes of learned-2d positions,", 2, hint="give an even dim")
        self.grid = grid
        self.x = nn.Parameter(torch.zeros(1, grid[1], dim // 2))
        self.y = nn.Parameter(torch.zeros(1, grid[0], dim // 2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, prefix: Tensor | None, grid: Grid) -> Tensor:
        """Return (B, P + N, C); raises UsageError for another grid than the tables'."""
        require_grid(self.grid, grid)
        rows, cols = grid
        x = self.x.unsqueeze(1).expand(-1, rows, -1, -1)
        y = self.y.unsqueeze(2).expand(-1, -1, cols, -1)
        positioned: Tensor = self.dropout(join(tokens + torch.cat((x, y), dim=-1).flatten(1, 2), prefix))
        return positioned


class SinCosPositions(nn.Module):
    """Fixed 2-D sine-cosine positions, for any grid; no parameters, the prefix has no entry.

    Channels are [sin x, cos x, sin y, cos y] with frequencies 10000^(-i / (C/4 - 1)), i = 0 .. C/4 - 1:
    big_vision's `posemb_sincos_2d`, Beyer et al. 2022 (Better plain ViT baselines).
    """

    table: Tensor

    def __init__(self, grid: Grid, dim: int, *, dropout: float = 0.0) -> None:
        """Compute the table of the expected grid once; raises UsageError when 4 does not divide `dim`."""
        super().__init__()
        positive(rows=grid[0], cols=grid[1], dim=dim)
        probability(dropout=dropout)
        divisible("dim", dim, "the four parts of sincos-2d positions,", 4, hint="give a multiple of 4")
        if dim < 8:
            raise UsageError(f"dim {dim}: sincos-2d positions need at least two frequencies, that is dim 8")
        self.grid = grid
        self.dim = dim
        self.register_buffer("table", sincos_table(grid, dim).float(), persistent=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, prefix: Tensor | None, grid: Grid) -> Tensor:
        """Return (B, P + N, C)."""
        # The kept table was rounded to float32: other grids and float64 models get theirs computed. Its dtype
        # is the model's, not that of autocast tokens, so the residual stream starts in full precision.
        table = self.table
        if grid != self.grid or table.dtype == torch.float64:
            table = sincos_table(grid, self.dim, device=tokens.device).to(table.dtype)
        positioned: Tensor = self.dropout(join(tokens + table, prefix))
        return positioned


def sincos_table(grid: Grid, dim: int, *, device: torch.device | None = None) -> Tensor:
    """Return (1, N, C) float64 sine-cosine positions of a grid, row by row."""
    rows, cols = grid
    quarter = dim // 4
    exponent = torch.arange(quarter, dtype=torch.float64, device=device) / (quarter - 1)
    frequency = 10000.0**-exponent
    y = torch.arange(rows, dtype=torch.float64, device=device).repeat_interleave(cols)
    x = torch.arange(cols, dtype=torch.float64, device=device).repeat(rows)
    angle_x, angle_y = x[:, None] * frequency, y[:, None] * frequency
    return torch.cat((angle_x.sin(), angle_x.cos(), angle_y.sin(), angle_y.cos()), dim=1).unsqueeze(0)


def require_grid(built: Grid, given: Grid) -> None:
    """Refuse a picture whose grid a learned table has no entries for."""
    if built != given:
        raise UsageError(
            f"learned positions were built for a {built[0]}x{built[1]} grid, the picture gives "
            f"{given[0]}x{given[1]}: pass image_size when the model is built or loaded, or use "
            f"position sincos-2d or none"
        )
