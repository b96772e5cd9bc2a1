import pytest
import torch
from torch import nn

from isopatch.errors import UsageError
from isopatch.nn.relative_bias import RelativeBias, relative_index


def test_the_bias_depends_on_the_offset_only() -> None:
    rows, cols = 3, 4
    index = relative_index((rows, cols), 0)
    offsets: dict[tuple[int, int], int] = {}
    for i in range(rows * cols):
        for j in range(rows * cols):
            offset = (i // cols - j // cols, i % cols - j % cols)
            assert offsets.setdefault(offset, int(index[i, j])) == index[i, j]
    assert sorted(offsets.values()) == list(range((2 * rows - 1) * (2 * cols - 1)))


def test_prefix_tokens_use_three_rows_of_their_own() -> None:
    index = relative_index((2, 2), 2)
    assert index.shape == (6, 6)
    assert set(index[:2, 2:].flatten().tolist()) == {9}
    assert set(index[2:, :2].flatten().tolist()) == {10}
    assert set(index[:2, :2].flatten().tolist()) == {11}
    assert torch.equal(index[2:, 2:], relative_index((2, 2), 0))


def test_shape_and_heads() -> None:
    bias = RelativeBias((2, 3), 4, num_prefix=1)
    nn.init.normal_(bias.table)
    values = bias((2, 3))
    assert values.shape == (1, 4, 7, 7)
    torch.testing.assert_close(values[0, 2, 1, 1], bias.table[bias.index[1, 1], 2])


def test_another_grid_is_refused() -> None:
    with pytest.raises(UsageError, match="built for a 2x3 grid, the picture gives 3x2: pass image_size"):
        RelativeBias((2, 3), 4)((3, 2))
