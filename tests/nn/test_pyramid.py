"""The pyramid: merging steps, stages, and what it promises as a classifier."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isopatch.errors import UsageError
from isopatch.nn.block import attention_block
from isopatch.nn.head import Head
from isopatch.nn.norms import layer_norm
from isopatch.nn.pool import MeanPool
from isopatch.nn.position import LearnedPositions
from isopatch.nn.pyramid import PatchMerge, Pyramid, Stage, merged_grid
from isopatch.nn.stem import PatchStem


def make(*, norm_first: bool = True) -> Pyramid:
    return Pyramid(
        stem=PatchStem(3, 8, 4),
        position=LearnedPositions((2, 4), 8),
        stages=[
            Stage([attention_block(8, 2)]),
            Stage([attention_block(12, 3), attention_block(12, 3)], merge=PatchMerge(8, 12, layer_norm(8))),
        ],
        norm=layer_norm(12),
        pool=MeanPool(norm_first=norm_first),
        heads={"cls": Head(12, 5)},
    )


def test_merging_joins_two_by_two_neighbours() -> None:
    merge = PatchMerge(8, 12, nn.Identity())
    tokens = torch.randn(2, 8, 8)
    merged, grid = merge(tokens, (2, 4))
    assert grid == (1, 2)
    square = tokens.view(2, 2, 4, 8)[:, :, 2:]  # the right half: rows x cols x channels
    expected = torch.einsum("byxc,ocyx->bo", square, merge.conv.weight) + merge.conv.bias
    torch.testing.assert_close(merged[:, 1], expected)


@pytest.mark.parametrize("grid", [(3, 4), (4, 3), (1, 1)])
def test_an_odd_grid_is_refused(grid: tuple[int, int]) -> None:
    assert merged_grid((2, 4)) == (1, 2)
    with pytest.raises(UsageError, match=f"a stage of {grid[0]}x{grid[1]} patches cannot be merged"):
        merged_grid(grid)
    with pytest.raises(UsageError, match="cannot be merged"):
        PatchMerge(8, 12, nn.Identity())(torch.randn(2, grid[0] * grid[1], 8), grid)


@pytest.mark.parametrize("norm_first", [True, False])
def test_the_pool_owns_where_the_norm_is(norm_first: bool) -> None:
    model = make(norm_first=norm_first).eval()
    x = torch.randn(2, 3, 8, 16)
    *_, last = model.features_by_depth(x)
    pooled = model.norm(last.tokens).mean(1) if norm_first else model.norm(last.tokens.mean(1))
    torch.testing.assert_close(model(x), model.heads["cls"](pooled))
    expected = model.norm(last.tokens) if norm_first else last.tokens
    torch.testing.assert_close(model.features(x).tokens, expected)


def test_depths_count_blocks_and_merging_belongs_to_the_next() -> None:
    model = make().eval()
    x = torch.randn(2, 3, 8, 16)
    found = list(model.features_by_depth(x))
    assert [tuple(features.map.shape) for features in found] == [
        (2, 8, 2, 4),
        (2, 8, 2, 4),
        (2, 12, 1, 2),
        (2, 12, 1, 2),
    ]
    second = model.stages[1]
    assert isinstance(second, Stage)
    assert second.merge is not None
    tokens, grid = second.merge(found[1].tokens, (2, 4))
    torch.testing.assert_close(found[2].tokens, second.blocks[0](tokens, grid))
    with pytest.raises(UsageError, match="depth 4"):
        model.features(x, depth=4)


def test_names_of_tensors_start_with_the_parts() -> None:
    names = {name.split(".")[0] for name in make().state_dict()}
    assert names == {"stem", "position", "stages", "norm", "heads"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_exports_with_a_dynamic_batch() -> None:
    model = make().eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (torch.randn(3, 3, 8, 16),), dynamic_shapes=({0: batch},))
    x = torch.randn(5, 3, 8, 16)
    torch.testing.assert_close(program.module()(x), model(x))
