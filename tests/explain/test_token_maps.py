"""Token-mixing maps: whose weights they are, and in which order they stand."""

import numpy as np
import pytest
import torch

from isopatch.explain.token_maps import frequency, make, missing, token_maps
from isopatch.models.gmlp import gmlp
from isopatch.models.metaformer import metaformer
from isopatch.models.mlp_mixer import mlp_mixer
from isopatch.models.resmlp import resmlp
from isopatch.models.vit import vit

SIZES = {"dim": 8, "depth": 2, "patch_size": 4, "image_size": (8, 12), "num_classes": 2}


def wave(grid, down, across):
    y, x = np.mgrid[: grid[0], : grid[1]]
    return np.cos(2 * np.pi * (down * y / grid[0] + across * x / grid[1])).ravel()


def test_frequency_of_waves_is_known():
    grid = (8, 12)
    rows = np.stack([wave(grid, 0, 3), wave(grid, 2, 0), wave(grid, 2, 3), np.ones(96)])
    expected = [3 / 12, 2 / 8, np.hypot(3 / 12, 2 / 8), 0.0]
    np.testing.assert_allclose(frequency(rows, grid), expected, atol=1e-12)
    np.testing.assert_allclose(frequency(5 * rows + 3, grid), expected, atol=1e-12)


def test_maps_are_the_weights_that_read_places():
    mixer, linear, gate = mlp_mixer(**SIZES), resmlp(**SIZES), gmlp(**SIZES)
    found = token_maps(mixer)
    assert [(m.block, m.kind, m.placed) for m in found] == [(1, "token-MLP", False), (2, "token-MLP", False)]
    np.testing.assert_allclose(found[1].rows, mixer.blocks[1].token.mixer.mlp.fc1.weight.detach())
    np.testing.assert_allclose(
        token_maps(linear)[0].rows, linear.blocks[0].token.mixer.linear.weight.detach()
    )
    np.testing.assert_allclose(token_maps(gate)[0].rows, gate.blocks[0].mixer.gate.linear.weight.detach())
    assert token_maps(gate)[0].grid == (2, 3)


def test_hidden_units_stand_in_the_order_of_their_frequency(context):
    model = mlp_mixer(**{**SIZES, "image_size": (32, 48)})
    data = make(context(model))[0].data["blocks"]
    for block in data:
        assert block["frequency"] == sorted(block["frequency"])
    assert make(context(resmlp(**SIZES)))[0].data["blocks"][0]["place"] == list(range(6))


@pytest.mark.parametrize("build", [mlp_mixer, resmlp, gmlp])
def test_one_place_and_dead_weights_are_drawn(context, build):
    model = build(**{**SIZES, "image_size": 4})
    for parameter in model.blocks.parameters():
        torch.nn.init.zeros_(parameter)
    assert make(context(model))[0].svg.startswith("<svg")


def test_models_without_maps_say_so():
    assert "no weights over places" in missing(vit(**SIZES, num_heads=2))
    assert missing(metaformer(**SIZES, token_mixer="random")) is None
    assert missing(metaformer(**SIZES, token_mixer="pool")) is not None
