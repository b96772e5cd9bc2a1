"""Stems of convolutions: the grid of patches, and what a token sees."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isopatch.errors import UsageError
from isopatch.nn.conv_stem import ConvStem, conv_pool_trunk, overlapping_trunk, prime_factors
from isopatch.nn.stem import PatchStem, patch_grid

TRUNKS = {"overlap": overlapping_trunk, "conv-pool": conv_pool_trunk}


def make(kind: str, patch_size: int, dim: int = 16) -> ConvStem:
    return ConvStem(TRUNKS[kind](3, dim, patch_size, nn.ReLU), dim, patch_size).eval()


@pytest.mark.parametrize("patch_size", [1, 2, 3, 4, 6, 7, 16])
@pytest.mark.parametrize("kind", TRUNKS)
def test_the_grid_is_that_of_patches(kind: str, patch_size: int) -> None:
    if (kind, patch_size) == ("overlap", 1):
        with pytest.raises(UsageError, match="stem 'overlap' needs patch_size 2"):
            make(kind, patch_size)
        return
    stem = make(kind, patch_size)
    for rows, cols in ((1, 1), (3, 2), (5, 4)):
        tokens, grid = stem(torch.randn(2, 3, rows * patch_size, cols * patch_size))
        assert grid == (rows, cols)
        assert tokens.shape == (2, rows * cols, 16)
        assert tokens.is_contiguous()


@pytest.mark.parametrize("kind", TRUNKS)
def test_a_token_sees_beyond_its_patch(kind: str) -> None:
    def seen(stem: nn.Module) -> tuple[int, int]:
        """Pixels a side that the token in the middle of a 5 x 5 grid depends on."""
        x = torch.rand(1, 3, 20, 20, requires_grad=True)
        tokens, _ = stem(x)
        tokens[0, 12].sum().backward()
        assert x.grad is not None
        touched = x.grad[0].abs().sum(0) > 0
        return int(touched.any(1).sum()), int(touched.any(0).sum())

    assert seen(PatchStem(3, 16, 4)) == (4, 4)
    beyond = seen(make(kind, 4))
    assert beyond[0] > 4
    assert beyond[1] > 4


@pytest.mark.parametrize("kind", TRUNKS)
def test_a_size_that_patches_do_not_fill_is_refused(kind: str) -> None:
    stem = make(kind, 4)
    with pytest.raises(UsageError, match="image_size 16x18 is not divisible by patch_size 4"):
        stem(torch.randn(1, 3, 16, 18))


def test_the_width_doubles_up_to_the_models() -> None:
    convolutions = [m for m in overlapping_trunk(3, 64, 16, nn.ReLU) if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [8, 16, 32, 64]
    assert all(c.kernel_size == (3, 3) and c.stride == (2, 2) and c.bias is None for c in convolutions)
    convolutions = [m for m in conv_pool_trunk(3, 64, 4, nn.ReLU) if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [32, 64]
    assert all(c.kernel_size == (3, 3) and c.stride == (1, 1) for c in convolutions)


def test_activation_and_norm_follow_the_projection() -> None:
    norm = nn.BatchNorm2d(16)
    stem = ConvStem(overlapping_trunk(3, 16, 4, nn.ReLU), 16, 4, activation=nn.GELU(), norm=norm).eval()
    nn.init.normal_(norm.weight)
    x = torch.randn(2, 3, 8, 12)
    expected = norm(nn.functional.gelu(stem.proj(stem.trunk(x))))
    tokens, grid = stem(x)
    assert grid == patch_grid((8, 12), 4)
    torch.testing.assert_close(tokens, expected.flatten(2).transpose(1, 2))


def test_prime_factors() -> None:
    assert [prime_factors(n) for n in (1, 2, 7, 12, 14, 16)] == [
        [],
        [2],
        [7],
        [2, 2, 3],
        [2, 7],
        [2, 2, 2, 2],
    ]
