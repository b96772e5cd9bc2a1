import math

import pytest
import torch
from torch import nn

from isopatch.errors import UsageError
from isopatch.nn.position import (
    LearnedAxisPositions,
    LearnedPositions,
    NoPositions,
    SinCosPositions,
    sincos_table,
)

TOKENS = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
PREFIX = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(1))
GRID = (2, 3)


def randomise(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


def test_prefix_with_an_entry_is_joined_before_adding() -> None:
    position = randomise(LearnedPositions(GRID, 8, prefix_entries=1))
    tokens = position(TOKENS, PREFIX, GRID)
    torch.testing.assert_close(tokens[:, :1], PREFIX + position.table[:, :1])
    torch.testing.assert_close(tokens[:, 1:], TOKENS + position.table[:, 1:])


def test_prefix_without_an_entry_is_joined_after_adding() -> None:
    position = randomise(LearnedPositions(GRID, 8))
    tokens = position(TOKENS, PREFIX, GRID)
    assert torch.equal(tokens[:, :1], PREFIX)
    torch.testing.assert_close(tokens[:, 1:], TOKENS + position.table)


def test_axis_positions_are_the_column_then_the_row() -> None:
    position = randomise(LearnedAxisPositions(GRID, 8))
    tokens = position(TOKENS, PREFIX, GRID)
    row, col = 1, 2
    expected = TOKENS[:, row * 3 + col] + torch.cat((position.x[0, col], position.y[0, row]))
    torch.testing.assert_close(tokens[:, 1 + row * 3 + col], expected)
    assert torch.equal(tokens[:, :1], PREFIX)


def test_sincos_follows_the_formula() -> None:
    rows, cols, dim = 3, 4, 16
    table = sincos_table((rows, cols), dim)
    for row in range(rows):
        for col in range(cols):
            frequencies = [10000 ** (-i / (dim // 4 - 1)) for i in range(dim // 4)]
            expected = (
                [math.sin(col * f) for f in frequencies]
                + [math.cos(col * f) for f in frequencies]
                + [math.sin(row * f) for f in frequencies]
                + [math.cos(row * f) for f in frequencies]
            )
            torch.testing.assert_close(
                table[0, row * cols + col], torch.tensor(expected, dtype=torch.float64)
            )


def test_sincos_takes_any_grid_and_has_no_parameters() -> None:
    position = SinCosPositions(GRID, 8)
    tokens = torch.randn(1, 20, 8)
    moved = position(tokens, None, (4, 5))
    torch.testing.assert_close(moved, tokens + sincos_table((4, 5), 8).float())
    assert not list(position.parameters())
    assert not position.state_dict()


def test_sincos_is_exact_in_float64() -> None:
    position = SinCosPositions(GRID, 8).double()
    tokens = torch.zeros(1, 6, 8, dtype=torch.float64)
    assert torch.equal(position(tokens, None, GRID), sincos_table(GRID, 8))


@pytest.mark.parametrize("position", [LearnedPositions(GRID, 8), LearnedAxisPositions(GRID, 8)])
def test_a_table_refuses_another_grid_and_says_what_to_do(position: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"built for a 2x3 grid, the picture gives 3x2: pass image_size"):
        position(TOKENS, PREFIX, (3, 2))


def test_no_positions_only_joins() -> None:
    assert torch.equal(NoPositions()(TOKENS, PREFIX, GRID), torch.cat((PREFIX, TOKENS), dim=1))
    assert torch.equal(NoPositions()(TOKENS, None, GRID), TOKENS)


@pytest.mark.parametrize(
    "position",
    [
        NoPositions(dropout=0.5),
        LearnedPositions(GRID, 8, dropout=0.5),
        LearnedAxisPositions(GRID, 8, dropout=0.5),
        SinCosPositions(GRID, 8, dropout=0.5),
    ],
)
def test_dropout_in_training_only(position: nn.Module) -> None:
    tokens = torch.ones(4, 6, 8)
    dropped = (position.train()(tokens, None, GRID) == 0).float().mean()
    assert 0.3 < dropped < 0.7
    assert not (position.eval()(tokens, None, GRID) == 0).any()


def test_dims_that_do_not_split_are_refused() -> None:
    with pytest.raises(UsageError, match="dim 7 is not divisible by the two axes"):
        LearnedAxisPositions(GRID, 7)
    with pytest.raises(UsageError, match="dim 10 is not divisible by the four parts"):
        SinCosPositions(GRID, 10)
    with pytest.raises(UsageError, match=r"dropout 1\.0"):
        NoPositions(dropout=1.0)
