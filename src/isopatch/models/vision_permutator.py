"""Vision Permutator: linear maps along rows, columns and channels apart (Hou et al. 2021, arXiv 2106.12368).

    x -> patches -> stages of ( x + mix(norm(x)) -> x + MLP(norm(x)) ), between some of them a 2 x 2 conv of
      stride 2 -> norm -> mean -> logits
    mix(x) = weighted sum of along_rows(x), along_cols(x) and W_c x, projected (nn/branches.py)
    along_rows: the channels are cut into N segments of S = C / N; the S channels of all rows of one column
      and segment, H S numbers, go through one C x C linear map. along_cols: the same for a row's columns.

H S = C needs as many segments as rows and as columns: the weights are tied to one square picture size.
Verified: the paper's parameters and multiply-adds, and the formulas in a second implementation. Taken from
reading the authors' code (houqb/VisionPermutator): sizes, biases, eps, hidden width of the weights,
initialisation. No published weights were run through it.
"""

from __future__ import annotations

from torch import Tensor, nn

from isopatch.errors import UsageError
from isopatch.models import initialise
from isopatch.nn.activations import Activation
from isopatch.nn.block import DropPathSchedule, ResidualBranch, TwoStepBlock, drop_path_rates
from isopatch.nn.branches import WeightedBranches
from isopatch.nn.channel_mixers import Mlp
from isopatch.nn.checks import divisible, per_stage, positive
from isopatch.nn.head import Head
from isopatch.nn.layout import Grid
from isopatch.nn.norms import layer_norm
from isopatch.nn.on_map import NormOnMap, OnMap, StemOnMap
from isopatch.nn.staged import Staged
from isopatch.nn.stem import PatchStem, patch_grid
from isopatch.nn.strided import StridedConv2d
from isopatch.nn.token_mlp import require_grid

NORM_EPS = 1e-5  # PyTorch's default, which the authors left as it is
ROWS, COLS, SEGMENTS = 1, 2, 3  # axes of a map (B, rows, cols, segments, S)


class PermuteMixer(nn.Module):
    """Linear layers along rows, along columns and over channels, weighted (paper, section 3.2)."""

    def __init__(self, dim: int, segments: int, *, activation: Activation = "gelu") -> None:
        """segments: parts of the channels, and rows and columns of the grid the weights are tied to."""
        super().__init__()
        positive(segment_dims=segments)
        divisible("dim", dim, "segment_dim", segments, hint="every segment gets the same number of channels")
        self.segments = segments
        self.rows = nn.Linear(dim, dim, bias=False)
        self.cols = nn.Linear(dim, dim, bias=False)
        self.place = nn.Linear(dim, dim, bias=False)
        self.branches = WeightedBranches(dim, activation=activation)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Mix tokens (B, N, C) along each axis of their grid."""
        require_grid("a permute-MLP", (self.segments, self.segments), grid)
        x = tokens.reshape(tokens.shape[0], *grid, self.segments, -1)
        along_rows = self._along(x, ROWS, self.rows)
        along_cols = self._along(x, COLS, self.cols)
        mixed: Tensor = self.branches(along_rows, along_cols, self.place(tokens))
        return mixed

    def _along(self, x: Tensor, axis: int, linear: nn.Module) -> Tensor:
        """Let segments and places of one axis change seats, map the last two axes, and go back."""
        swapped = x.transpose(axis, SEGMENTS)
        mapped = linear(swapped.flatten(SEGMENTS)).view_as(swapped)
        back: Tensor = mapped.transpose(axis, SEGMENTS).flatten(SEGMENTS).flatten(1, 2)
        return back


def vision_permutator(
    *,
    dims: tuple[int, ...],
    depths: tuple[int, ...],
    segment_dims: tuple[int, ...],
    transitions: tuple[bool, ...],
    mlp_ratios: tuple[float, ...],
    patch_size: int,
    image_size: int | tuple[int, int],
    num_classes: int = 1000,
    in_channels: int = 3,
    activation: Activation = "gelu",
    drop_path: float = 0.0,
    drop_path_schedule: DropPathSchedule = "linear",
) -> Staged:
    """Build a Vision Permutator, tied to the square grids of `image_size`.

    dims, depths, segment_dims, mlp_ratios: one value per stage. segment_dims: parts of the channels, equal to
    the rows and the columns of the stage's map. transitions: whether the map is halved after each stage but
    the last; dims may change there only.
    Initialisation: linear weights truncated normal 0.02, biases 0, convolutions PyTorch's (authors' code).
    Raises UsageError where the parts do not fit together.
    """
    per_stage(dims=dims, depths=depths, segment_dims=segment_dims, mlp_ratios=mlp_ratios)
    positive(dims=min(dims), depths=min(depths), in_channels=in_channels)
    _require_fit(dims, segment_dims, transitions, patch_grid(image_size, patch_size), patch_size)
    rates = iter(drop_path_rates(drop_path, sum(depths), drop_path_schedule))

    def block(dim: int, segments: int, mlp_ratio: float, rate: float) -> OnMap:
        mixer = PermuteMixer(dim, segments, activation=activation)
        mlp = Mlp(dim, int(dim * mlp_ratio), activation=activation)
        return OnMap(
            TwoStepBlock(
                ResidualBranch(layer_norm(dim, NORM_EPS), mixer, dim=dim, drop_path=rate),
                ResidualBranch(layer_norm(dim, NORM_EPS), mlp, dim=dim, drop_path=rate),
            )
        )

    stages = []
    for index, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
        halves = index > 0 and transitions[index - 1]
        halving = [StridedConv2d(dims[index - 1], dim, kernel_size=2, stride=2)] if halves else []
        blocks = [block(dim, segment_dims[index], mlp_ratios[index], next(rates)) for _ in range(depth)]
        stages.append(nn.Sequential(*halving, *blocks))
    model = Staged(
        stem=StemOnMap(PatchStem(in_channels, dims[0], patch_size)),
        stages=stages,
        norm=NormOnMap(dims[-1], NORM_EPS),
        heads={"cls": Head(dims[-1], num_classes)},
    )
    initialise.linear_layers(model)
    return model


def _require_fit(
    dims: tuple[int, ...],
    segment_dims: tuple[int, ...],
    transitions: tuple[bool, ...],
    grid: Grid,
    patch_size: int,
) -> None:
    """Refuse stages whose grids, segments and widths do not belong together."""
    if len(transitions) != len(dims) - 1:
        raise UsageError(
            f"transitions has {len(transitions)} values, dims {len(dims)}: give one between each two stages"
        )
    for index, halves in enumerate((False, *transitions)):
        if halves:
            before = f"segment_dims (stage {index - 1})"
            divisible(before, grid[0], "the halving", 2, hint="a row would be left over")
            grid = grid[0] // 2, grid[1] // 2
        elif index and dims[index] != dims[index - 1]:
            raise UsageError(
                f"dims {dims[index - 1]} and {dims[index]} (stages {index - 1} and {index}) with transitions "
                f"false between them: the width changes only where the map is halved"
            )
        if grid != (segment_dims[index], segment_dims[index]):
            raise UsageError(
                f"segment_dims {segment_dims[index]} of stage {index}: the picture has {grid[0]} x {grid[1]} "
                f"patches there (patch_size {patch_size}), and a permute-MLP needs as many segments as rows "
                f"and as columns; change image_size or segment_dims"
            )


def no_weight_decay(model: Staged) -> set[str]:
    """Nothing beside biases and 1-D tensors."""
    return set()
