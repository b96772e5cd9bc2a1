import pytest
import torch
from torch import nn

import isopatch
from isopatch.errors import UsageError
from isopatch.models.hybrid import hybrid
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


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("patch_size", [2, 7, 16])
def test_a_picture_of_few_columns_means_the_same_in_bf16(patch_size: int, columns: int) -> None:
    torch.manual_seed(0)
    stem = PatchStem(3, 64, patch_size)
    pictures = torch.randn(2, 3, 8 * patch_size, columns * patch_size)
    exact, grid = stem(pictures)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, _ = stem(pictures)
    assert grid == (8, columns)
    # (B, C, rows, cols, y, x)
    flat = pictures.unfold(2, patch_size, patch_size).unfold(3, patch_size, patch_size)
    by_hand = torch.einsum("bcijyx,dcyx->bijd", flat, stem.proj.weight).flatten(1, 2) + stem.proj.bias
    torch.testing.assert_close(exact, by_hand, rtol=1e-4, atol=1e-5)
    assert (rounded.float() - exact).norm() < 2**-6 * exact.norm()


def test_other_strided_convolutions_do_too() -> None:
    """Overlapping stems, a hybrid's root and stages, a CIFAR ResNet: maps that end one column wide."""
    wide = {"dim": 32, "depth": 1, "num_heads": 2, "num_classes": 4}
    for size, build in (
        (
            (64, 4),
            lambda size: isopatch.create_model(
                "bench", stem="overlap", image_size=size, patch_size=4, **wide
            ),
        ),
        ((128, 16), lambda size: hybrid(layers=(1, 1, 1), image_size=size, **wide)),
        ((64, 4), lambda size: isopatch.create_model("cifar_resnet20", num_classes=4)),
    ):
        torch.manual_seed(0)
        model, pictures = build(size).eval(), torch.randn(2, 3, *size)
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.count_nonzero():  # a head begins at zero
                    parameter.normal_(std=0.1)
            exact = model(pictures)
            with torch.autocast("cpu", torch.bfloat16):
                rounded = model(pictures).float()
        assert (rounded - exact).norm() < 0.1 * exact.norm(), size
