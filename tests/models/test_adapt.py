"""Positions resized, distillation added: weights at another size than the model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from isopatch.errors import IsopatchError
from isopatch.models.adapt import resize_axis, resize_offsets
from isopatch.models.formats.timm import from_isopatch
from isopatch.models.load import load
from isopatch.models.resize import resize_table
from isopatch.models.save import save_model
from isopatch.models.spec import build, make_spec
from isopatch.nn.skeleton import Isotropic

VIT: dict[str, Any] = {"dim": 16, "depth": 1, "num_heads": 2, "patch_size": 4, "num_classes": 3}


def model_of(image_size: Any, **more: Any) -> Isotropic:
    return build(make_spec("vit", {**VIT, "image_size": image_size, **more})).eval()


def test_prefix_entries_are_kept_and_patches_are_bicubic() -> None:
    table = torch.randn(1, 2 + 6, 5)
    resized = resize_table(table, (2, 3), (4, 5), 2, "deit")
    assert torch.equal(resized[:, :2], table[:, :2])
    image = table[0, 2:].T.reshape(1, 5, 2, 3)
    expected = F.interpolate(image, size=(4, 5), mode="bicubic", align_corners=False)
    torch.testing.assert_close(resized[:, 2:], expected.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("mode", ["jax", "deit", "timm", "hf"])
def test_a_constant_table_stays_constant(mode: Any) -> None:
    table = torch.ones(1, 1 + 16, 3)
    torch.testing.assert_close(resize_table(table, (4, 4), (7, 3), 1, mode), torch.ones(1, 1 + 21, 3))
    torch.testing.assert_close(resize_axis(torch.ones(1, 4, 3), 6, mode), torch.ones(1, 6, 3))
    offsets = torch.ones(49 + 3, 2)
    torch.testing.assert_close(resize_offsets(offsets, (4, 4), (2, 3), 3, mode), torch.ones(15 + 3, 2))


def test_rows_and_columns_are_not_exchanged() -> None:
    # A ramp along x stays a ramp along x.
    ramp = torch.arange(6.0).repeat(4).reshape(1, 24, 1)
    resized = resize_table(ramp, (4, 6), (4, 12), 0, "deit").reshape(4, 12)
    assert torch.allclose(resized[0], resized[3])
    assert (resized[0].diff() > 0).all()


@pytest.mark.parametrize(
    ("position", "keys"),
    [
        ("learned", ["position.table"]),
        ("learned-2d", ["position.x", "position.y"]),
        ("relative", ["blocks.0.token.mixer.relative_bias.table"]),
        ("sincos-2d", []),
        ("none", []),
    ],
)
def test_loading_at_another_size(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, position: str, keys: list[str]
) -> None:
    model = model_of((16, 24), position=position)
    save_model(tmp_path, model)
    with caplog.at_level(logging.INFO, logger="isopatch"):
        loaded = load(tmp_path, image_size=(32, 40))
    assert loaded(torch.randn(1, 3, 32, 40)).shape == (1, 3)
    assert (loaded.spec.input.height, loaded.spec.input.width) == (32, 40)
    assert loaded.spec.arguments["image_size"] == [32, 40]
    changed = {
        key
        for key, value in loaded.state_dict().items()
        if value.shape != model.state_dict()[key].shape or not torch.equal(value, model.state_dict()[key])
    }
    assert changed == set(keys)
    assert ("resized" in caplog.text) == bool(keys)


def test_same_number_of_patches_in_another_shape_is_resized(tmp_path: Path) -> None:
    model = model_of((16, 36))  # 4 x 9
    save_model(tmp_path, model)
    loaded = load(tmp_path, image_size=24)  # 6 x 6
    table = model.position.table.detach()
    assert loaded.position.table.shape == table.shape
    torch.testing.assert_close(loaded.position.table.detach(), resize_table(table, (4, 9), (6, 6), 1, "deit"))


def test_a_hybrids_grid_is_its_stems(tmp_path: Path) -> None:
    small = {"depth": 1, "num_classes": 3, "image_size": (64, 96)}  # 2 x 3 patches of 8 on a map of a quarter
    model = build(make_spec("vit_tiny_r_s16_p8_224", small))
    save_model(tmp_path, model)
    loaded = load(tmp_path, image_size=(96, 64))
    table = model.position.table.detach()
    torch.testing.assert_close(loaded.position.table.detach(), resize_table(table, (2, 3), (3, 2), 1, "deit"))


def test_a_model_without_patches_takes_any_size(tmp_path: Path) -> None:
    save_model(tmp_path, build(make_spec("cifar_resnet20", {"depth": 8, "width": 4})))
    loaded = load(tmp_path, image_size=(24, 40))
    assert (loaded.spec.input.height, loaded.spec.input.width) == (24, 40)


def test_the_same_size_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = model_of((16, 36))
    save_model(tmp_path, model)
    with caplog.at_level(logging.INFO, logger="isopatch"):
        loaded = load(tmp_path, image_size=(16, 36))
    assert torch.equal(loaded.position.table, model.position.table)
    assert "resized" not in caplog.text


def test_a_foreign_table_is_square_unless_something_says_otherwise(tmp_path: Path) -> None:
    square, wide = model_of(24), model_of((8, 20))
    path = tmp_path / "weights.safetensors"
    arguments = {**VIT, "image_size": 32}
    save_file(from_isopatch(square.state_dict(), "vit"), path)
    loaded = load(path, name="vit", arguments=arguments)
    torch.testing.assert_close(
        loaded.position.table.detach(),
        resize_table(square.position.table.detach(), (6, 6), (8, 8), 1, "deit"),
    )
    save_file(from_isopatch(wide.state_dict(), "vit"), path)
    with pytest.raises(IsopatchError, match=r"position\.table has 10 places, no square grid"):
        load(path, name="vit", arguments=arguments)


def test_plain_deit_weights_in_a_distilled_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = build(make_spec("deit_tiny", {"depth": 1, "image_size": 32, "num_classes": 3}))
    path = tmp_path / "deit.safetensors"
    save_file(from_isopatch(plain.state_dict(), "deit"), path)
    with caplog.at_level(logging.INFO, logger="isopatch"):
        model = load(path, name="deit_tiny_distilled", image_size=48, arguments={"depth": 1})
    assert "its second token, position and head are fresh" in caplog.text
    assert list(model(torch.randn(1, 3, 48, 48), heads=True)) == ["cls", "dist"]
    table, own = model.position.table.detach(), plain.position.table.detach()
    assert table.shape == (1, 2 + 9, 192)
    assert torch.equal(table[:, 0], own[:, 0])
    torch.testing.assert_close(table[:, 2:], resize_table(own[:, 1:], (2, 2), (3, 3), 0, "deit"))
    assert 0 < float(table[:, 1].std()) < 0.05
    assert torch.equal(model.heads["cls"].linear.weight, plain.heads["cls"].linear.weight)
    assert 0 < float(model.heads["dist"].linear.weight.detach().std()) < 0.05


def test_distilled_weights_in_a_plain_model_are_refused(tmp_path: Path) -> None:
    distilled = build(make_spec("deit_tiny_distilled", {"depth": 1, "image_size": 32, "num_classes": 3}))
    path = tmp_path / "deit.safetensors"
    save_file(from_isopatch(distilled.state_dict(), "deit"), path)
    with pytest.raises(IsopatchError, match="holds a distilled model, deit_tiny_patch16_224 is a plain one"):
        load(path, name="deit_tiny", arguments={"depth": 1, "image_size": 32})
