"""Windows of occlusion: equal to the formula over all of them at once, without holding all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from isopatch.explain.heat import log_probabilities, mean_colour
from isopatch.explain.occlusion import AT_ONCE, ROUNDING, occlusion_maps, windows
from isopatch.nn.classifier import Classifier

Make = Callable[..., Classifier]


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.numel() * tensor.element_size())
        return made


def all_at_once(model: Classifier, x: torch.Tensor, target: int, size: int, stride: int) -> torch.Tensor:
    """The formula: a plane for every window, their drops averaged over each pixel, then over each cell."""
    height, width = x.shape[-2:]
    corners = [
        (min(top, height - size), min(left, width - size))
        for top in range(0, height - size + stride, stride)
        for left in range(0, width - size + stride, stride)
    ]
    covers = torch.zeros(len(corners), height, width)
    for plane, (top, left) in zip(covers, corners, strict=True):
        plane[top : top + size, left : left + size] = 1
    covered = torch.where(covers[:, None] > 0, mean_colour(x), x)
    drops = log_probabilities(model, x)[0, target] - log_probabilities(model, covered)[:, target]
    drops = torch.where(drops.abs() > ROUNDING, drops, 0.0)
    per_pixel = (drops[:, None, None] * covers).sum(0) / covers.sum(0)
    return F.avg_pool2d(per_pixel[None], stride, ceil_mode=True, count_include_pad=False)


@pytest.mark.parametrize(("size", "stride"), [(4, 4), (5, 3), (4, 1), (7, 2), (16, 16)])
def test_maps_equal_the_formula_over_all_windows_at_once(
    make: Make, pictures: torch.Tensor, size: int, stride: int
) -> None:
    model = make("convmixer")
    options = {"occlusion.size": size, "occlusion.stride": stride}
    (found,) = occlusion_maps(model, pictures, torch.tensor([0, 1, 2]), options)
    for index in range(3):
        expected = all_at_once(model, pictures[index : index + 1], index, size, stride)[0]
        torch.testing.assert_close(found.values[index], expected, atol=1e-5, rtol=1e-4)
    assert found.values.any()


def test_no_tensor_grows_with_the_number_of_windows(make: Make) -> None:
    model, x = make("convmixer", image_size=32), torch.randn(1, 3, 32, 32)

    def largest(stride: int) -> int:
        with Largest() as noted:
            occlusion_maps(model, x, torch.zeros(1, dtype=torch.int64), {
                "occlusion.size": 4, "occlusion.stride": stride
            })  # fmt: skip
        return noted.size

    few, many = sum(map(len, windows(32, 32, 4, 4))), sum(map(len, windows(32, 32, 4, 1)))
    assert (few, many) == (AT_ONCE, 29 * 29)
    assert largest(1) == largest(4)  # one full batch and 13 of them
    with Largest() as noted:  # the control: planes of all windows are seen
        all_at_once(model, x, 0, 4, 1)
    assert noted.size >= many * 3 * 32 * 32 * 4 > 10 * largest(4)
