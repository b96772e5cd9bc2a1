"""Position similarity and the test for waves: known tables, random ones, and what the null leaves alone."""

import numpy as np
import pytest
import torch

from isopatch.explain.places import cosines, position_table, profiles, relative_biases
from isopatch.explain.positions import make, missing, verdict
from isopatch.explain.waves import find_waves
from isopatch.models.convmixer import convmixer
from isopatch.models.vit import vit
from isopatch.nn.position import sincos_table

SMALL = {"dim": 16, "depth": 2, "num_heads": 2, "patch_size": 4, "image_size": (16, 24), "num_classes": 3}


def random_table(grid, dim, seed=0):
    return np.random.default_rng(seed).normal(size=(*grid, dim))


@pytest.mark.parametrize("grid", [(14, 14), (8, 8), (4, 12), (3, 5)])
def test_sine_cosine_positions_are_waves_along_rows_and_columns(grid):
    field = sincos_table(grid, 64).numpy().reshape(*grid, -1)
    found = find_waves(field, deals=99)
    assert found.sine_like
    assert found.rows_and_columns
    assert found.axes == pytest.approx(1.0)
    assert "Sine-like" in verdict(found, "places")


@pytest.mark.parametrize("grid", [(14, 14), (8, 8), (3, 5)])
def test_random_tables_are_not(grid):
    found = find_waves(random_table(grid, 64), deals=99)
    assert not found.sine_like
    assert not found.rows_and_columns
    assert found.concentration == pytest.approx(found.concentration_null, rel=0.2)
    assert "Not sine-like" in verdict(found, "places")


def test_the_same_vectors_in_another_order_are_not():
    """The null keeps everything but where the vectors stand; so must the verdict turn."""
    field = sincos_table((8, 8), 64).numpy()[0]
    shuffled = np.random.default_rng(1).permutation(field).reshape(8, 8, -1)
    assert not find_waves(shuffled, deals=99).sine_like


def test_bumps_are_structured_but_no_waves():
    y, x = np.mgrid[:12, :12]
    centres = np.random.default_rng(0).uniform(0, 12, (64, 2))
    away = (y[..., None] - centres[:, 0]) ** 2 + (x[..., None] - centres[:, 1]) ** 2
    found = find_waves(np.exp(-away / 8), deals=99)
    assert found.concentration_p <= 0.01
    assert not found.sine_like


def test_p_values_of_random_tables_are_even():
    found = [find_waves(random_table((6, 6), 16, seed), seed=seed + 1, deals=19) for seed in range(60)]
    small = np.mean([waves.concentration_p <= 0.25 for waves in found])
    assert 0.1 < small < 0.42
    assert 0.1 < np.mean([waves.axes_p <= 0.25 for waves in found]) < 0.42


def test_the_share_of_the_axes_is_that_of_the_additive_model():
    field = random_table((5, 6), 7) + random_table((5, 1), 7, 1) + random_table((1, 6), 7, 2)
    centred = field - field.mean(axis=(0, 1))
    fitted = centred.mean(axis=0, keepdims=True) + centred.mean(axis=1, keepdims=True)
    assert find_waves(field, deals=1).axes == pytest.approx((fitted**2).sum() / (centred**2).sum())


def test_a_single_wave_has_its_period():
    x = np.arange(12)
    field = np.broadcast_to(np.sin(2 * np.pi * 3 * x / 12)[None, :, None], (4, 12, 2))
    found = find_waves(field, deals=19)
    assert found.concentration == pytest.approx(1.0)
    assert found.periods == {3: pytest.approx(1.0)}


def test_nothing_is_tested_where_nothing_can_be():
    assert find_waves(random_table((2, 3), 8)) is None
    assert find_waves(np.ones((6, 6, 4))) is None
    assert find_waves(np.zeros((6, 6, 4))) is None


def test_cosines_and_profiles_by_hand():
    field = np.array([[[1.0, 0], [0, 1]], [[1, 1], [0, 0]]])
    found = cosines(field)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(found[:3, :3], [[1, 0, half], [0, 1, half], [half, half, 1]])
    assert np.isnan(found[3]).all()
    profile = profiles(found, (2, 2))
    np.testing.assert_allclose(profile.column, [1, 0])
    np.testing.assert_allclose(profile.row, [1, half])  # the pair with the zero entry is left out
    np.testing.assert_allclose(profile.distance[1][1], (0 * 2 + half * 2 + half * 2) / 6)


def test_prefix_entries_are_left_out():
    model = vit(**SMALL)
    torch.nn.init.normal_(model.position.table)
    field = position_table(model).field
    assert field.shape == (4, 6, 16)
    np.testing.assert_allclose(field.reshape(24, 16), model.position.table.detach()[0, 1:])


@pytest.mark.parametrize("position", ["sincos-2d", "learned-2d"])
def test_tables_are_what_is_added_to_the_patches(position):
    model = vit(**SMALL, position=position, class_token=False, pool="norm-mean").eval()
    for parameter in model.position.parameters():
        torch.nn.init.normal_(parameter)
    nothing = torch.zeros(1, 24, 16)
    with torch.no_grad():
        added = model.position(nothing, None, (4, 6))
    np.testing.assert_allclose(position_table(model).field.reshape(24, 16), added[0], atol=1e-6)


def test_relative_biases_stand_where_their_offsets_are():
    model = vit(**SMALL, position="relative")
    biases = [module for module in model.modules() if type(module).__name__ == "RelativeBias"]
    for module in biases:
        torch.nn.init.normal_(module.table)
    found = relative_biases(model)
    assert [layer.shape for layer in found.layers] == [(7, 11, 2)] * 2
    full = biases[1]((4, 6))[0].detach().numpy()  # heads, 1 + N, 1 + N
    query, key = 1 + 2 * 6 + 3, 1 + 0 * 6 + 4  # two rows down, one column to the left
    np.testing.assert_allclose(found.layers[1][3 + 2, 5 - 1], full[:, query, key], rtol=1e-6)


@pytest.mark.parametrize("position", ["learned", "learned-2d", "sincos-2d", "relative"])
@pytest.mark.parametrize("size", [4, (4, 24)])
def test_every_kind_and_grid_is_drawn(context, position, size):
    model = vit(**{**SMALL, "image_size": size}, position=position)
    figures = make(context(model))
    assert len(figures) == 3
    assert missing(model) is None


def test_a_table_of_zeros_has_no_directions_and_says_so(context):
    model = vit(**SMALL)
    torch.nn.init.zeros_(model.position.table)
    similar, profile, waves = make(context(model))
    assert "zero" in similar.warning
    assert similar.data["cosine"][0][0] is None
    assert profile.warning
    assert "not tested" in waves.warning
    torch.nn.init.normal_(model.position.table)
    assert [figure.warning for figure in make(context(model))] == [None] * 3


def test_models_without_positions_say_so():
    model = convmixer(dim=8, depth=1, kernel_size=3, patch_size=4, image_size=8, num_classes=2)
    assert "no positions" in missing(model)
    assert "no positions" in missing(vit(**SMALL, position="none"))
