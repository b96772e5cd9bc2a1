"""Distances: closed forms of uniform and identity attention, and brute force for everything else."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from isopatch.explain.distance import distances
from isopatch.explain.parts import Seen, look, mixing_parts
from isopatch.explain.reach import (
    cycle_kernels,
    kernel_distance,
    matrix_distance,
    mixing_matrix,
    pool_matrix,
    reach_of,
    uniform_distance,
)
from isopatch.models.convmixer import convmixer
from isopatch.models.cycle_mlp import CycleMixer
from isopatch.models.deit import deit
from isopatch.models.vision_permutator import PermuteMixer
from isopatch.models.vit import vit
from isopatch.nn.fixed_mixers import PoolMixer
from isopatch.nn.token_mixers import Attention
from isopatch.nn.token_mlp import TokenLinear, TokenMlp

CELL = (4.0, 4.0)


def brute(matrix, grid, cell):
    """Mean over queries of the weighted distance, one pair at a time; rows of zeros left out."""
    places = [(r * cell[0], c * cell[1]) for r in range(grid[0]) for c in range(grid[1])]
    found = []
    for query, row in zip(places, matrix, strict=True):
        total = float(sum(abs(w) for w in row))
        if total > 0:
            far = sum(abs(float(w)) * math.dist(query, key) for w, key in zip(row, places, strict=True))
            found.append(far / total)
    return sum(found) / len(found) if found else math.nan


def test_uniform_attention_on_a_line_has_the_closed_form():
    """Mean distance of two of n points one pixel apart: (n^2 - 1) / (3 n)."""
    for n in (1, 2, 5, 14):
        weights = torch.full((n, n), 1 / n)
        expected = (n**2 - 1) / (3 * n)
        assert float(matrix_distance(weights, (1, n), (1.0, 1.0))) == pytest.approx(expected)
        assert uniform_distance((n, 1), (1.0, 1.0)) == pytest.approx(expected)


def test_identity_attention_looks_nowhere_and_a_shifted_one_a_patch_away():
    eye = torch.eye(12)
    assert float(matrix_distance(eye, (3, 4), CELL)) == 0
    next_place = torch.eye(12).roll(1, dims=1)
    next_place[[3, 7, 11]] = 0  # these would wrap to another row: they look nowhere and do not count
    assert float(matrix_distance(next_place, (3, 4), CELL)) == pytest.approx(4.0)


def test_prefix_tokens_are_dropped_and_the_rest_is_normalised_again():
    grid, patches = (3, 4), 12
    weights = torch.rand(2, 5, 2 + patches, 2 + patches, dtype=torch.float64).softmax(-1)
    weights[..., 0] += 10.0  # nearly all attention goes to the class token
    weights = weights / weights.sum(-1, keepdim=True)
    found = matrix_distance(weights, grid, CELL, prefix=2)
    for b in range(2):
        for h in range(5):
            assert float(found[b, h]) == pytest.approx(brute(weights[b, h, 2:, 2:], grid, CELL))
    not_renormalised = (weights[..., 2:, 2:].sum(-1)).mean()
    assert float(not_renormalised) < 0.2  # without the second normalisation distances would be a fifth


def conv_matrix(conv, grid):
    """(out places, in places) of the weights of a convolution's first channel, found by probing it."""
    count = grid[0] * grid[1]
    probe = torch.eye(count).view(count, 1, *grid)
    with torch.no_grad():
        return conv(probe).flatten(1).T


@pytest.mark.parametrize(("size", "grid"), [(1, (4, 5)), (3, (4, 5)), (5, (3, 7)), (9, (4, 4)), (3, (1, 1))])
def test_a_convolution_is_the_matrix_it_stands_for(size, grid):
    conv = nn.Conv2d(1, 1, size, padding=size // 2, bias=False)
    seen = Seen(grid, grid, 0, (2.0, 3.0))
    expected = brute(conv_matrix(conv, grid), grid, (2.0, 3.0))
    assert reach_of(conv, seen).distances == pytest.approx([expected])


def test_an_even_kernel_and_a_dilated_one_are_placed_right():
    grid = (6, 5)
    even = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(1, 1, 4, padding=1, bias=False))
    expected = brute(conv_matrix(even, grid), grid, CELL)
    assert reach_of(even[1], Seen(grid, grid, 0, CELL)).distances == pytest.approx([expected])
    dilated = nn.Conv2d(1, 1, 3, padding=2, dilation=2, bias=False)
    expected = brute(conv_matrix(dilated, grid), grid, CELL)
    assert reach_of(dilated, Seen(grid, grid, 0, CELL)).distances == pytest.approx([expected])


def test_a_strided_result_stands_in_the_middle_of_what_it_replaces():
    ones = torch.ones(1, 2, 2)
    found = kernel_distance(ones, (8, 8), (1.0, 1.0), stride=(2, 2), before=(0, 0))
    assert float(found) == pytest.approx(math.hypot(0.5, 0.5))


def test_a_delta_kernel_looks_nowhere_and_its_neighbour_one_patch_away():
    delta = torch.zeros(2, 5, 5)
    delta[0, 2, 2], delta[1, 2, 3] = -1.5, 0.5
    found = kernel_distance(delta, (8, 8), CELL, before=(2, 2))
    np.testing.assert_allclose(found, [0.0, 4.0])
    assert torch.isnan(kernel_distance(torch.zeros(1, 3, 3), (8, 8), CELL, before=(1, 1))).all()


def test_token_layers_are_read_as_their_matrices():
    grid = (2, 3)
    linear = TokenLinear(grid)
    found = reach_of(linear, Seen(grid, grid, 0, CELL)).distances
    assert found == pytest.approx([brute(linear.linear.weight.detach(), grid, CELL)])
    mlp = TokenMlp(grid, 5)
    product = (mlp.mlp.fc2.weight @ mlp.mlp.fc1.weight).detach()
    found = reach_of(mlp, Seen(grid, grid, 0, CELL)).distances
    assert found == pytest.approx([brute(product, grid, CELL)])
    with torch.no_grad():
        linear.linear.weight.copy_(torch.eye(6))
    assert reach_of(linear, Seen(grid, grid, 0, CELL)).distances == pytest.approx([0.0])


def test_pooling_is_probed():
    grid, mixer = (4, 3), PoolMixer(3)
    probe = torch.eye(12).unsqueeze(2)  # (picture, place, one channel)
    expected = mixer(probe, grid)[:, :, 0].T.abs()
    torch.testing.assert_close(pool_matrix(grid, 3).float(), expected, atol=1e-6, rtol=1e-6)
    assert float(reach_of(mixer, Seen(grid, grid, 0, CELL)).distances[0]) > 0
    assert np.isnan(reach_of(PoolMixer(3), Seen((1, 1), (1, 1), 0, CELL)).distances).all()


def test_permute_and_cycle_weights_reach_where_the_parts_do():
    """What a part's weights claim to read is exactly what its output depends on."""
    grid, dim = (4, 4), 8
    permute = PermuteMixer(dim, 4)
    cycle = CycleMixer(dim, 3)
    for mixer in (permute, cycle):
        tokens = torch.randn(1, 16, dim, requires_grad=True)
        place = 5
        branches = mixer.branches
        mixer.branches = FirstSum()
        mixer(tokens, grid)[0, place].abs().sum().backward()
        mixer.branches = branches
        touched = tokens.grad[0].abs().sum(dim=1) > 0
        if mixer is permute:
            claimed = mixing_matrix(permute, grid)[1][place] > 0
        else:
            kernel = cycle_kernels(cycle).sum(dim=0)
            claimed = torch.zeros(4, 4, dtype=torch.bool)
            claimed[0:3, 0:3] = kernel > 0  # round place (1, 1)
            claimed = claimed.flatten()
        assert torch.equal(touched, claimed)


class FirstSum(nn.Module):
    """The three branches, added: their weights depend on the picture and hide none of them."""

    def forward(self, a, b, c):
        return a + b + c


def test_a_permute_matrix_follows_its_weights():
    grid = (3, 3)
    permute = PermuteMixer(6, 3)
    with torch.no_grad():
        for linear in (permute.rows, permute.cols, permute.place):
            linear.weight.copy_(torch.eye(6))
    assert reach_of(permute, Seen(grid, grid, 0, CELL)).distances == pytest.approx([0.0])


@pytest.mark.parametrize("distilled", [False, True])
def test_a_model_that_attends_evenly_has_the_distance_of_the_grid(distilled):
    """Queries of zeros make uniform attention; the class tokens take their share and are left out."""
    build = deit if distilled else vit
    options = {"distilled": True} if distilled else {}
    model = build(dim=16, depth=2, num_heads=2, patch_size=4, image_size=(16, 24), num_classes=3, **options)
    for module in model.modules():
        if isinstance(module, Attention):
            nn.init.zeros_(module.qkv.weight)
            nn.init.zeros_(module.qkv.bias)
    found = distances(model.eval(), torch.randn(5, 3, 16, 24))
    expected = uniform_distance((4, 6), CELL)
    assert [layer.block for layer in found] == [1, 2]
    for layer in found:
        assert layer.reach.kind == "attention"
        assert layer.reach.distances == pytest.approx([expected] * 2, rel=1e-5)
        assert layer.uniform == pytest.approx(expected)


def test_attention_that_depends_on_the_picture_is_averaged_over_pictures():
    model = vit(dim=16, depth=1, num_heads=2, patch_size=4, image_size=16, num_classes=3).eval()
    for module in model.modules():
        if isinstance(module, Attention):
            nn.init.normal_(module.qkv.weight, std=1.0)
    sample = torch.randn(20, 3, 16, 16)
    every = distances(model, sample)[0].reach.distances
    single = [distances(model, picture.unsqueeze(0))[0].reach.distances for picture in sample]
    np.testing.assert_allclose(every, np.mean(single, axis=0), rtol=1e-5)
    assert np.std(single) > 1e-3


def test_a_convmixer_is_measured_in_pixels_of_the_picture():
    model = convmixer(dim=4, depth=2, kernel_size=3, patch_size=5, image_size=21, num_classes=2).eval()
    found = distances(model, torch.randn(2, 3, 21, 21))  # one row and column of pixels is left out
    conv = model.blocks[0].depthwise
    expected = kernel_distance(conv.weight.detach()[:, 0], (4, 4), (5.0, 5.0), before=(1, 1))
    np.testing.assert_allclose(found[0].reach.distances, expected)
    assert found[0].uniform == pytest.approx(uniform_distance((4, 4), (5.0, 5.0)))


def test_hooks_are_taken_away():
    model = convmixer(dim=4, depth=1, kernel_size=3, patch_size=4, image_size=8, num_classes=2).eval()
    look(model, mixing_parts(model), torch.randn(1, 3, 8, 8))
    assert not any(module._forward_hooks for module in model.modules())
