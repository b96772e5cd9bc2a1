import pytest
import torch
from torch import nn

from isopatch.errors import UsageError
from isopatch.nn.norms import batch_norm
from isopatch.nn.stem import PatchStem, patch_grid


def test_each_token_is_the_projection_of_its_patch() -> None:
    stem = PatchStem(3, 8, 4)
    x = torch.randn(2, 3, 8, 12)
    tokens, grid = stem(x)
    assert grid == (2, 3)
    assert tokens.is_contiguous()
    patch = x[:, :, 4:8, 8:12].flatten(1)  # row 1, column 2
    expected = patch @ stem.proj.weight.flatten(1).T + stem.proj.bias
    torch.testing.assert_close(tokens[:, 5], expected)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_tokens_are_contiguous_for_any_number_of_channels(channels: int) -> None:
    tokens, _ = PatchStem(channels, 8, 2)(torch.randn(2, channels, 8, 8))
    assert tokens.is_contiguous()


def test_activation_comes_before_the_norm() -> None:
    stem = PatchStem(3, 8, 4, activation=nn.ReLU(), norm=batch_norm(8)).train()
    x = torch.randn(4, 3, 8, 8)
    tokens, _ = stem(x)
    activated = torch.relu(stem.proj(x))
    expected = (activated - activated.mean((0, 2, 3), keepdim=True)) / (
        activated.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    torch.testing.assert_close(tokens, expected.flatten(2).transpose(1, 2))


def test_exact_stem_refuses_what_the_patch_does_not_divide() -> None:
    with pytest.raises(UsageError, match=r"image_size 30x32 is not divisible by patch_size 4.*28x32|32x32"):
        PatchStem(3, 8, 4)(torch.randn(1, 3, 30, 32))
    assert PatchStem(3, 8, 4)(torch.randn(1, 3, 28, 32))[1] == (7, 8)


def test_inexact_stem_drops_the_remainder_like_a_convolution() -> None:
    stem = PatchStem(3, 8, 4, exact=False)
    x = torch.randn(1, 3, 15, 18)
    tokens, grid = stem(x)
    assert grid == (3, 4)
    torch.testing.assert_close(tokens, stem(x[:, :, :12, :16])[0])


def test_a_picture_smaller_than_a_patch_is_refused() -> None:
    with pytest.raises(UsageError, match="smaller than one patch"):
        PatchStem(3, 8, 4, exact=False)(torch.randn(1, 3, 3, 8))


def test_one_picture_without_a_batch_is_refused() -> None:
    with pytest.raises(UsageError, match="takes a batch of pictures"):
        PatchStem(3, 8, 4)(torch.randn(3, 8, 8))


@pytest.mark.parametrize("size", [0, -4, (8, 0)])
def test_sizes_below_one_are_refused(size: int | tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="must be at least 1"):
        patch_grid(size, 4)
