"""Effective receptive fields of linear convolutions, whose gradients are known."""

import numpy as np
import pytest
import torch
from torch import nn

from isopatch.explain.receptive_field import Depth, area_of, radius_of, receptive_fields
from isopatch.models.vit import vit
from isopatch.nn.classifier import Classifier, Encoded, Features
from isopatch.nn.layout import as_tokens
from isopatch.nn.norms import layer_norm


class Convolutions(Classifier):
    """Three 3 x 3 convolutions of equal weights, nothing else; depth 0 is the picture."""

    def __init__(self, channels=1, weight=1.0):
        super().__init__()
        sizes = [3, channels, channels]
        self.layers = nn.ModuleList(nn.Conv2d(c, channels, 3, padding=1, bias=False) for c in sizes)
        for layer in self.layers:
            nn.init.constant_(layer.weight, weight)
        self.heads = nn.ModuleDict({"cls": nn.Linear(channels, 2)})

    def features_by_depth(self, x):
        yield self._features(x)
        for layer in self.layers:
            x = layer(x)
            yield self._features(x)

    def _features(self, x):
        return Features(as_tokens(x), (x.shape[2], x.shape[3]), x)

    def encode(self, x):
        *_, last = self.features_by_depth(x)
        return Encoded(last, last.map.mean(dim=(2, 3)).unsqueeze(1))


@pytest.mark.parametrize("channels", [1, 5])
def test_three_equal_convolutions_have_the_exact_support_and_weights(channels):
    """Row of the product: 1 1 1 convolved with itself twice is 1 3 6 7 6 3 1."""
    found = receptive_fields(Convolutions(channels), torch.randn(3, 3, 15, 17))
    row = [np.array([1.0]), np.ones(3), np.array([1.0, 2, 3, 2, 1]), np.array([1.0, 3, 6, 7, 6, 3, 1])]
    for depth, line in zip(found, row, strict=True):
        expected = np.zeros((15, 17))
        half = len(line) // 2
        expected[7 - half : 8 + half, 8 - half : 9 + half] = np.outer(line, line)
        np.testing.assert_allclose(depth.field, expected / expected.sum(), rtol=1e-5, atol=1e-9)
        assert depth.middle == (7.5, 8.5)


def test_unequal_kernels_have_other_weights():
    model = Convolutions()
    with torch.no_grad():
        model.layers[1].weight[0, 0, 0, 0] = 3.0
    field = receptive_fields(model, torch.randn(2, 3, 15, 15))[3].field
    assert field[5, 5] > 1.5 * field[9, 9]  # what is above and to the left counts more


def test_every_picture_counts_alike():
    """A relu that only one bright picture passes: without it the mean is the other picture's."""

    class Gated(Convolutions):
        def features_by_depth(self, x):
            yield self._features(x)
            yield self._features(1000.0 * self.layers[0](x[:, :, :, :]).relu() + x[:, :1])

    model = Gated()
    dark, bright = -torch.ones(1, 3, 9, 9), torch.ones(1, 3, 9, 9)
    alone = [receptive_fields(model, x)[1].field for x in (dark, bright)]
    both = receptive_fields(model, torch.cat((dark, bright)))[1].field
    energies = [field**2 / (field**2).sum() for field in alone]
    expected = np.sqrt(np.mean(energies, axis=0))
    np.testing.assert_allclose(both, expected / expected.sum(), rtol=1e-5, atol=1e-9)
    assert alone[0][4, 4] == pytest.approx(1.0)
    assert alone[1][4, 4] < 0.2


def test_a_norm_whose_channels_sum_to_nothing_still_has_a_field():
    class Normed(Convolutions):
        def __init__(self):
            super().__init__(channels=8)
            for layer in self.layers:
                nn.init.normal_(layer.weight)
            self.norm = layer_norm(8, 1e-6)

        def features_by_depth(self, x):
            x = self.layers[0](x)
            yield self._features(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))

    field = receptive_fields(Normed(), torch.randn(2, 3, 9, 9))[0].field
    assert ((field > 1e-4) == (np.pad(np.ones((3, 3)), 3) > 0)).all()


def disc(size, radius):
    y, x = np.mgrid[:size, :size] + 0.5 - size / 2
    return (np.hypot(y, x) <= radius).astype(float)


def test_radius_and_area_of_a_disc():
    field = disc(41, 10)
    depth = Depth(field / field.sum(), (20.5, 20.5), (1.0, 1.0))
    assert radius_of(depth, 1.0) == pytest.approx(10.0)
    assert radius_of(depth, 0.25) == pytest.approx(5.0, abs=0.5)
    assert area_of(depth, 1.0) == pytest.approx(field.mean())
    assert area_of(depth, 0.5) == pytest.approx(field.mean() / 2, abs=1 / 41**2)
    elsewhere = Depth(field / field.sum(), (0.5, 0.5), (1.0, 1.0))
    assert radius_of(elsewhere, 1.0) > 30
    assert area_of(elsewhere, 0.5) == area_of(depth, 0.5)


def test_nothing_that_arrives_has_no_width():
    empty = Depth(np.zeros((4, 4)), (2.0, 2.0), (1.0, 1.0))
    assert np.isnan(radius_of(empty, 0.9))
    assert np.isnan(area_of(empty, 0.9))
    found = receptive_fields(Convolutions(weight=0.0), torch.randn(1, 3, 5, 5))
    assert found[3].field.sum() == 0


def test_a_patch_model_starts_with_its_own_patch_and_leaves_no_gradients():
    model = vit(dim=16, depth=1, num_heads=2, patch_size=4, image_size=(8, 16), num_classes=3).eval()
    stem, block = receptive_fields(model, torch.randn(4, 3, 8, 16))
    expected = np.zeros((8, 16), dtype=bool)
    expected[4:8, 8:12] = True
    np.testing.assert_array_equal(stem.field > 0, expected)
    assert (block.field > 0).all()
    assert stem.middle == (6.0, 10.0)
    assert all(parameter.grad is None for parameter in model.parameters())
