"""What tests on drawn models share: how many are drawn, weights, pictures, how inference is compared."""

from __future__ import annotations

import copy

import torch
from hypothesis import HealthCheck, Phase, settings
from tests.kernels.native.comparison import Tolerance, off
from torch import Tensor, nn

import isopatch
from isopatch.kernels import swap
from isopatch.kernels.native.library import NativeLibrary
from isopatch.kernels.swap import Swapped
from isopatch.nn.skeleton import Isotropic


def draws(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],  # a failing case is small as it is; shrinking it takes minutes
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )


class Drawn:
    """One model and batch."""

    batch: int
    activation: str
    precision: str
    instructions: str

    def model(self) -> Isotropic:
        raise NotImplementedError

    def size(self) -> tuple[int, int]:
        """Of the pictures, in pixels."""
        raise NotImplementedError

    def pictures(self) -> Tensor:
        draw = torch.Generator().manual_seed(self.batch)
        return torch.randn(self.batch, 3, *self.size(), generator=draw)

    def tolerance(self) -> Tolerance:
        return Tolerance.of(self.precision, self.activation)

    def both(self, native: NativeLibrary, *, training: bool) -> tuple[Isotropic, Isotropic, Swapped]:
        """The plain model, and a copy on twins."""
        native.choose(self.instructions)
        plain = self.model().train(training)
        twin = copy.deepcopy(plain)
        return plain, twin, swap(twin, kernels="native", precision=self.precision)


def infers_alike(twin: Isotropic, plain: Isotropic, pictures: Tensor, tolerance: Tolerance) -> bool:
    """Whether tokens without gradients are as near to those in float64 as the comparison asks."""
    with torch.no_grad():
        exact = copy.deepcopy(plain).double().final_features(pictures.double()).tokens
        with torch.autocast("cpu", torch.bfloat16, enabled=tolerance.half):
            ours, theirs = (model.final_features(pictures).tokens for model in (twin, plain))
    assert ours.dtype == theirs.dtype
    return off(ours, exact) <= max(tolerance.limit, 3 * off(theirs, exact))


def spread(model: Isotropic) -> Isotropic:
    """Draw weights with which every part counts, unlike those a training starts from."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.15)
        else:
            nn.init.uniform_(parameter, 0.3, 1.0)
    return model


def small(architecture: str, **changes: object) -> Isotropic:
    """A model of 64 channels for pictures of 32x32."""
    torch.manual_seed(0)
    sizes = {"dim": 64, "depth": 2, "patch_size": 4, "image_size": 32, "num_classes": 4}
    model = isopatch.create_model(architecture, **(sizes | changes))
    assert isinstance(model, Isotropic)
    return model


def pictures(count: int = 5) -> Tensor:
    """Pictures for `small`."""
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))
