"""What is Vision Permutator's own: maps along one axis, and weights tied to one square grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from isopatch.api import create_model
from isopatch.errors import UsageError
from isopatch.models.load import load
from isopatch.models.save import save_model
from isopatch.models.vision_permutator import PermuteMixer, vision_permutator

SIZES: dict[str, Any] = {
    "dims": (16, 16, 24),
    "depths": (1, 1, 1),
    "segment_dims": (8, 8, 4),
    "transitions": (False, True),
    "mlp_ratios": (2.0, 2.0, 2.0),
    "patch_size": 4,
    "image_size": 32,
    "num_classes": 5,
}


def test_a_place_sees_its_whole_row_and_column() -> None:
    mixer = PermuteMixer(16, 4)
    tokens = torch.randn(1, 16, 16, requires_grad=True)
    torch.nn.init.zeros_(mixer.branches.fc2.weight)  # the weights of the branches see every place
    mixer(tokens, (4, 4))[0, 2 + 4 * 1].sum().backward()
    seen = tokens.grad[0].abs().sum(1).view(4, 4) > 0
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[1, :] = expected[:, 2] = True
    assert torch.equal(seen, expected)


def test_rows_and_columns_are_mapped_apart() -> None:
    # Rows and columns exchange their parts when the picture is transposed.
    mixer = PermuteMixer(16, 4)
    tokens = torch.randn(2, 4, 4, 16)
    mixed = mixer(tokens.flatten(1, 2), (4, 4))
    assert not torch.allclose(mixer(tokens.transpose(1, 2).flatten(1, 2), (4, 4)), mixed)
    # Change seats: the first two branches, and what the weights give to them.
    mixer.rows, mixer.cols = mixer.cols, mixer.rows
    with torch.no_grad():
        order = torch.arange(48).view(16, 3)[:, [1, 0, 2]].flatten()
        mixer.branches.fc2.weight.copy_(mixer.branches.fc2.weight[order])
        mixer.branches.fc2.bias.copy_(mixer.branches.fc2.bias[order])
    turned = mixer(tokens.transpose(1, 2).flatten(1, 2), (4, 4)).view(2, 4, 4, 16).transpose(1, 2)
    torch.testing.assert_close(turned.flatten(1, 2), mixed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 30}, "image_size 30x30 is not divisible by patch_size 4"),
        (
            {"image_size": 64},
            r"segment_dims 8 of stage 0: the picture has 16 x 16 patches there \(patch_size 4\)",
        ),
        ({"image_size": (32, 48)}, "segment_dims 8 of stage 0: the picture has 8 x 12 patches there"),
        ({"segment_dims": (8, 4, 4)}, "segment_dims 4 of stage 1: the picture has 8 x 8 patches there"),
        ({"segment_dims": (8, 8, 8)}, "segment_dims 8 of stage 2: the picture has 4 x 4 patches there"),
        ({"dims": (12, 12, 24)}, "dim 12 is not divisible by segment_dim 8"),
        ({"dims": (16, 24, 24)}, r"dims 16 and 24 \(stages 0 and 1\) with transitions false between them"),
        ({"transitions": (True, False, False)}, "transitions has 3 values, dims 3"),
        (
            {"image_size": 20, "segment_dims": (5, 5, 2), "dims": (20, 20, 24)},
            r"segment_dims \(stage 1\) 5 is not divisible by the halving 2",
        ),
    ],
)
def test_what_does_not_fit_is_refused_when_built(change: dict[str, Any], message: str) -> None:
    vision_permutator(**SIZES)
    with pytest.raises(UsageError, match=message):
        vision_permutator(**{**SIZES, **change})


def test_another_grid_is_refused_when_called() -> None:
    model = vision_permutator(**SIZES)
    for size in ((64, 64), (32, 48)):
        with pytest.raises(UsageError, match="a permute-MLP built for 8 x 8 patches got"):
            model(torch.randn(1, 3, *size))


def test_weights_are_not_taken_to_another_size(tmp_path: Path) -> None:
    # The tensors would have the same shapes there and mean something else.
    save_model(tmp_path, create_model("vip_s7", **SIZES))
    load(tmp_path)
    with pytest.raises(UsageError, match="segment_dims 8 of stage 0: the picture has 16 x 16 patches there"):
        load(tmp_path, image_size=64)
    # With fitting segments it is another model, with fresh weights.
    larger = create_model("vip_s7", **{**SIZES, "image_size": 64, "segment_dims": (16, 16, 8)})
    assert larger(torch.randn(1, 3, 64, 64)).shape == (1, 5)
