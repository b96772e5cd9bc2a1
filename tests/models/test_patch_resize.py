"""PI-resize of patch kernels: its definition, timm's function, what it keeps, loading at another patch."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from isopatch.errors import IsopatchError, UsageError
from isopatch.models.formats.timm import from_isopatch
from isopatch.models.load import load
from isopatch.models.patch_resize import resize_kernel
from isopatch.models.resize import resize_table
from isopatch.models.save import save_model
from isopatch.models.spec import build, make_spec
from isopatch.nn.classifier import Classifier

SIZES = [((16, 16), (8, 8)), ((8, 8), (16, 16)), ((16, 16), (30, 12)), ((7, 7), (14, 14)), ((4, 4), (3, 3))]
Size = tuple[int, int]


def enlarge(patches: Tensor, size: Size) -> Tensor:
    """B: resize patches (n, C, rows, cols) as pictures are."""
    return F.interpolate(patches, size=size, mode="bicubic", antialias=True)


def kernel(size: Size, dim: int = 5) -> Tensor:
    return torch.randn(dim, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_it_is_the_least_squares_kernel_for_patches_of_independent_pixels(old: Size, new: Size) -> None:
    pixels = torch.eye(old[0] * old[1], dtype=torch.float64).reshape(-1, 1, *old)
    matrix = enlarge(pixels, new).flatten(1).T.numpy()  # B: (new pixels, old pixels)
    w = kernel(old).reshape(15, -1).numpy()
    expected, *_ = np.linalg.lstsq(matrix.T, w.T, rcond=None)  # min |w - B^T w'|^2 = E (<x, w> - <Bx, w'>)^2
    resized = resize_kernel(kernel(old), new).reshape(15, -1).numpy()
    np.testing.assert_allclose(resized, expected.T, atol=1e-10)
    np.testing.assert_allclose(resized, w @ np.linalg.pinv(matrix.T).T, atol=1e-10)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_it_is_timms(old: Size, new: Size) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layers = pytest.importorskip("timm.layers")
    w = kernel(old).float()
    expected = layers.resample_patch_embed(w, list(new))
    torch.testing.assert_close(resize_kernel(w, new), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("old", "new"), [((8, 8), (16, 16)), ((4, 4), (7, 5)), ((6, 6), (6, 9))])
def test_upwards_every_patch_keeps_its_token(old: Size, new: Size) -> None:
    patches = torch.randn(64, 3, *old, dtype=torch.float64)
    w = kernel(old)
    before = patches.flatten(1) @ w.flatten(1).T
    after = enlarge(patches, new).flatten(1) @ resize_kernel(w, new).flatten(1).T
    torch.testing.assert_close(after, before, atol=1e-9, rtol=0)
    # What one would do first, resizing the kernel like a picture, loses the token and its scale.
    plain = enlarge(patches, new).flatten(1) @ enlarge(w, new).flatten(1).T
    assert float((plain - before).abs().mean()) > 0.1 * float(before.abs().mean())


def test_the_same_size_is_the_identity() -> None:
    torch.testing.assert_close(resize_kernel(kernel((5, 5)), (5, 5)), kernel((5, 5)), atol=1e-12, rtol=0)


SMALL: dict[str, Any] = {"dim": 16, "depth": 1, "image_size": 32, "num_classes": 3, "patch_size": 8}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "vit": {"num_heads": 2},
    "deit": {"num_heads": 2, "distilled": True},
    "convmixer": {"kernel_size": 3},
    "mlp_mixer": {},
    "gmlp": {},
}


def saved(folder: Path, architecture: str, **more: Any) -> Classifier:
    arguments = {**SMALL, **ARCHITECTURES.get(architecture, {}), **more}
    model = build(make_spec(architecture, arguments)).eval()
    save_model(folder, model)
    return model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_larger_picture_in_larger_patches_has_the_same_tokens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, architecture: str
) -> None:
    model = saved(tmp_path, architecture)
    with caplog.at_level(logging.INFO, logger="isopatch"):
        loaded = load(tmp_path, image_size=64, arguments={"patch_size": 16})
    assert "patch kernels resized from 8x8 to 16x16 pixels (pseudo-inverse)" in caplog.text
    assert loaded.spec.arguments["patch_size"] == 16
    x = torch.randn(2, 3, 32, 32)
    patches = x.reshape(2, 3, 4, 8, 4, 8).permute(0, 2, 4, 1, 3, 5).reshape(-1, 3, 8, 8)
    large = enlarge(patches, (16, 16)).reshape(2, 4, 4, 3, 16, 16).permute(0, 3, 1, 4, 2, 5)
    assert "grid" not in caplog.text  # 4 x 4 before and after
    with torch.no_grad():
        torch.testing.assert_close(loaded(large.reshape(2, 3, 64, 64)), model(x), atol=1e-5, rtol=1e-5)


def test_positions_go_to_the_new_grid(tmp_path: Path) -> None:
    model = saved(tmp_path, "deit")
    loaded = load(tmp_path, arguments={"patch_size": 4}, position_resize="timm")
    expected = resize_table(model.position.table.detach(), (4, 4), (8, 8), 2, "timm")
    assert torch.equal(loaded.position.table.detach(), expected)
    assert loaded(torch.randn(1, 3, 32, 32)).shape == (1, 3)


def test_a_foreign_file_knows_its_own_patches(tmp_path: Path) -> None:
    model = build(make_spec("vit_tiny_patch16_224", {"depth": 1, "image_size": 64, "num_classes": 3}))
    save_file(from_isopatch(model.state_dict(), "vit"), tmp_path / "vit.safetensors")
    arguments = {"depth": 1, "patch_size": 8, "image_size": 64}
    loaded = load(tmp_path / "vit.safetensors", name="vit_tiny_patch16_224", arguments=arguments)
    table = model.position.table.detach()
    assert torch.equal(loaded.position.table.detach(), resize_table(table, (4, 4), (8, 8), 1, "deit"))
    expected = resize_kernel(model.state_dict()["stem.proj.weight"], (8, 8))
    assert torch.equal(loaded.state_dict()["stem.proj.weight"], expected)


def test_another_patch_that_nobody_asked_for_is_a_misfit(tmp_path: Path) -> None:
    model = build(make_spec("vit_tiny_patch16_224", {"depth": 1, "num_classes": 3, "patch_size": 32}))
    save_file(from_isopatch(model.state_dict(), "vit"), tmp_path / "vit.safetensors")
    with pytest.raises(IsopatchError, match=r"stem\.proj\.weight is 192x3x32x32, not 192x3x16x16"):
        load(tmp_path / "vit.safetensors", name="vit_tiny_patch16_224", arguments={"depth": 1})


@pytest.mark.parametrize(
    ("architecture", "more", "words"),
    [
        ("vit", {"num_heads": 2, "patch_norm": True}, "LayerNorm over a patch's pixels"),
        ("vit_tiny_r_s16_p8_224", {"num_heads": 2}, "PI-resize is defined for patches of pixels"),
    ],
)
def test_stems_without_a_definition_are_refused(
    tmp_path: Path, architecture: str, more: dict[str, Any], words: str
) -> None:
    saved(tmp_path, architecture, **more)
    with pytest.raises(UsageError, match=words) as refused:
        load(tmp_path, arguments={"patch_size": 4})
    assert "\n" not in str(refused.value)


def test_a_patch_size_of_zero_is_named(tmp_path: Path) -> None:
    saved(tmp_path, "mlp_mixer")
    with pytest.raises(UsageError, match="patch_size 0: must be at least 1"):
        load(tmp_path, arguments={"patch_size": 0})
