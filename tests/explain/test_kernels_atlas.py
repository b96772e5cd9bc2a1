"""Kernel energy by radius and the atlas: known kernels, and every way a model holds depthwise layers."""

import numpy as np
import pytest
import torch

from isopatch.explain.kernels import depthwise_layers, energy_by_radius, make, missing
from isopatch.models.convmixer import convmixer
from isopatch.models.mobilenet_v3 import mobilenet_v3
from isopatch.models.vit import vit


def test_a_delta_and_a_ring():
    kernels = np.zeros((2, 5, 5))
    kernels[0, 2, 2] = 2.0
    kernels[1, [0, 2, 2, 4], [2, 0, 4, 2]] = -3.0
    found = energy_by_radius(kernels)
    np.testing.assert_allclose(found.mean_radius, [0.0, 2.0])
    at = dict(zip(found.radius, found.share, strict=True))
    assert at[0.0] == pytest.approx(0.5)
    assert at[1.0] == pytest.approx(0.5)
    assert at[2.0] == pytest.approx(1.0)


def test_a_flat_kernel_spreads_as_its_places_do():
    found = energy_by_radius(np.ones((3, 3, 3)))
    np.testing.assert_allclose(found.radius, [0, 1, np.sqrt(2)])
    np.testing.assert_allclose(found.share, [1 / 9, 5 / 9, 1])


def test_every_kernel_counts_alike_and_empty_ones_do_not():
    kernels = np.zeros((3, 3, 3))
    kernels[0, 1, 1], kernels[1, 1, 2] = 100.0, 0.01
    found = energy_by_radius(kernels)
    np.testing.assert_allclose(found.share, [0.5, 1, 1])
    assert np.isnan(found.mean_radius[2])
    assert np.isnan(energy_by_radius(np.zeros((2, 3, 3))).share).all()


def test_an_even_kernels_centre_is_where_its_result_stands():
    kernels = np.zeros((1, 4, 4))
    kernels[0, 1, 1] = 1.0
    assert energy_by_radius(kernels).mean_radius == pytest.approx([0.0])


def test_layers_are_found_by_their_kind_and_drawn(context):
    model = convmixer(dim=6, depth=3, kernel_size=4, patch_size=2, image_size=8, num_classes=2)
    layers = depthwise_layers(model)
    assert [layer.name for layer in layers] == ["block 1", "block 2", "block 3"]
    np.testing.assert_allclose(layers[1].kernels, model.blocks[1].depthwise.weight.detach()[:, 0])
    torch.nn.init.zeros_(model.blocks[0].depthwise.weight)
    atlas, energy = make(context(model))
    assert len(atlas.data["layers"]) == 3
    assert energy.data["layers"][0]["mean_radius"] is None
    radii = atlas.data["layers"][1]["mean_radius"]
    assert radii == sorted(radii)


def test_models_without_depthwise_layers_say_so():
    model = vit(dim=8, depth=1, num_heads=2, patch_size=4, image_size=8, num_classes=2)
    assert "depthwise" in missing(model)
    one = mobilenet_v3(dim=8, depth=1, patch_size=4, image_size=8, num_classes=2, kernel_size=1)
    assert missing(one) is not None  # a 1 x 1 kernel mixes nothing
    assert missing(mobilenet_v3(dim=8, depth=1, patch_size=4, image_size=8, num_classes=2)) is None
