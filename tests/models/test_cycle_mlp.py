"""What is CycleMLP's own: the staircase of shifts, and that no picture size is built in."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from isopatch.errors import UsageError
from isopatch.models.cycle_mlp import COLS, ROWS, CycleMixer, cycle_mlp, shift

SIZES: dict[str, Any] = {"dims": (8, 12), "depths": (1, 1), "mlp_ratios": (2.0, 2.0), "image_size": 32}


def test_channels_come_from_0_1_and_minus_1_places_further_on() -> None:
    # The order of the authors' code for step 3.
    x = torch.arange(1.0, 6).view(1, 1, 5, 1).expand(1, 1, 5, 6)
    first, second, third, *again = shift(x, 3, COLS)[0, 0].T.tolist()
    assert first == [1, 2, 3, 4, 5]
    assert second == [2, 3, 4, 5, 0]
    assert third == [0, 1, 2, 3, 4]
    assert again == [first, second, third]
    assert torch.equal(shift(x.transpose(1, 2), 3, ROWS), shift(x, 3, COLS).transpose(1, 2))


@pytest.mark.parametrize(("step_size", "axis"), [(3, ROWS), (3, COLS), (7, COLS), (4, ROWS), (1, COLS)])
def test_equals_a_deformable_convolution_with_fixed_offsets(step_size: int, axis: int) -> None:
    # How the authors compute it, with the offsets of their code.
    from torchvision.ops import deform_conv2d

    dim = 10
    x = torch.randn(2, dim, 5, 6, dtype=torch.float64)
    layer = torch.nn.Linear(dim, 4, dtype=torch.float64)
    offsets = torch.zeros(2, dim, 2, 5, 6, dtype=torch.float64)
    for channel in range(dim):
        offsets[:, channel, axis - 1] = (channel + step_size // 2) % step_size - step_size // 2
    expected = deform_conv2d(x, offsets.flatten(1, 2), layer.weight[:, :, None, None], layer.bias)
    found = layer(shift(x.permute(0, 2, 3, 1), step_size, axis)).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("axis", [ROWS, COLS])
def test_a_reach_beyond_the_map_brings_zeros(axis: int) -> None:
    shifted = shift(torch.ones(1, 1, 1, 7), 7, axis)
    assert shifted.flatten().tolist() == [1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("size", [(32, 32), (32, 64), (37, 18), (3, 3), (224, 8)])
def test_any_picture_size(size: tuple[int, int]) -> None:
    model = cycle_mlp(**SIZES).eval()
    stem, *_, last = model.features_by_depth(torch.randn(2, 3, *size))
    assert stem.grid == tuple((side + 4 - 7) // 4 + 1 for side in size)
    assert last.grid == tuple(-(-side // 2) for side in stem.grid)
    assert model(torch.randn(2, 3, *size)).shape == (2, 1000)


def test_a_place_sees_its_row_and_column_within_the_step() -> None:
    mixer = CycleMixer(12, 3)
    tokens = torch.randn(1, 35, 12, requires_grad=True)
    torch.nn.init.zeros_(mixer.branches.fc2.weight)  # the weights of the branches see every place
    mixer(tokens, (5, 7))[0, 3 + 7 * 2].sum().backward()
    seen = tokens.grad[0].abs().sum(1).view(5, 7) > 0
    expected = torch.zeros(5, 7, dtype=torch.bool)
    expected[1:4, 3] = expected[2, 2:5] = True
    assert torch.equal(seen, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 2}, "image_size 2x2: both sides must be at least 3"),
        ({"patch_stride": 8}, "patch_stride 8 is larger than patch_size 7"),
        ({"step_size": 0}, "step_size 0"),
    ],
)
def test_what_cannot_work_is_refused_when_built(change: dict[str, Any], message: str) -> None:
    cycle_mlp(**SIZES)
    with pytest.raises(UsageError, match=message):
        cycle_mlp(**{**SIZES, **change})


def test_a_picture_without_a_place_is_refused() -> None:
    with pytest.raises(UsageError, match="image_size 32x2: both sides must be at least 3"):
        cycle_mlp(**SIZES)(torch.randn(1, 3, 32, 2))
