"""Partial loading, moving averages, and what a file's tensors became."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from isopatch.errors import IsopatchError, UsageError
from isopatch.models.formats.timm import from_isopatch
from isopatch.models.load import load, open_weights
from isopatch.models.save import save_model
from isopatch.models.spec import build, make_spec
from isopatch.nn.skeleton import Isotropic

VIT: dict[str, Any] = {"dim": 16, "depth": 2, "num_heads": 2, "patch_size": 8, "image_size": 32}


def vit(seed: int = 0, **more: Any) -> Isotropic:
    torch.manual_seed(seed)
    model = build(make_spec("vit", {**VIT, "num_classes": 3, **more})).eval()
    torch.nn.init.normal_(model.heads["cls"].linear.weight)
    return model


def saved(path: Path, model: Isotropic) -> Path:
    save_file(from_isopatch(model.state_dict(), "vit"), path)
    return path


def test_what_fits_is_taken_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = vit()
    path = saved(tmp_path / "deep.safetensors", model)
    asked = {**VIT, "depth": 3, "mlp_ratio": 2.0}
    with pytest.raises(
        IsopatchError, match=r"depth 2 in the file, 3 in vit; hidden width of the MLP 64 in the file, 32 in"
    ):
        load(path, "vit", arguments=asked)
    with caplog.at_level(logging.INFO, logger="isopatch"):
        opened = open_weights(path, "vit", arguments=asked, partial=True)
    tally = opened.tally
    assert f"loaded {tally.matched} of {tally.in_model} tensors of vit; fresh: blocks.0" in caplog.text
    own = opened.model.state_dict()
    assert tally.in_model == len(own) and tally.matched + len(tally.missing) == len(own)
    assert "blocks.2.token.norm.weight" in tally.missing
    assert "blocks.0.channel.mixer.fc1.weight" in tally.left_over
    for key, tensor in model.state_dict().items():
        assert torch.equal(own[key], tensor) == (key not in tally.missing)


def test_a_file_without_a_classifier_or_positions(tmp_path: Path) -> None:
    state = from_isopatch(vit().state_dict(), "vit")
    del state["head.weight"], state["head.bias"], state["pos_embed"]
    save_file(state, tmp_path / "some.safetensors")
    opened = open_weights(
        tmp_path / "some.safetensors", "vit", arguments={**VIT, "num_classes": 7}, partial=True
    )
    assert opened.model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    assert opened.tally.missing == ("position.table", "heads.cls.linear.weight", "heads.cls.linear.bias")


def test_nothing_that_fits_is_an_error(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.safetensors", vit())
    wide = {**VIT, "dim": 48, "num_heads": 3, "patch_size": 4, "num_classes": 9}
    state = torch.nn.Linear(2, 2).state_dict()
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(IsopatchError, match="none of its 2 tensors belongs to vit"):
        load(tmp_path / "other.safetensors", "vit", arguments=wide, partial=True)
    with pytest.raises(
        IsopatchError, match=r"loaded 0 of \d+ tensors of vit.*width 16 in the file, 48 in vit"
    ):
        load(path, "vit", arguments=wide, num_classes=9, partial=True)


def test_values_that_are_not_finite_are_refused_in_part_too(tmp_path: Path) -> None:
    model = vit()
    model.norm.bias.data[2] = float("inf")
    path = saved(tmp_path / "w.safetensors", model)
    for partial in (False, True):
        with pytest.raises(
            IsopatchError, match=r"w\.safetensors: norm\.bias holds values that are not finite"
        ):
            load(path, "vit", arguments=VIT, partial=partial)
    model.norm.bias.data[2] = 0.0
    assert load(saved(path, model), "vit", arguments=VIT, partial=True)  # control: finite, it loads


@pytest.mark.parametrize(("raw", "average"), [("model", "model_ema"), ("state_dict", "state_dict_ema")])
def test_which_weights_of_a_training_checkpoint(
    tmp_path: Path, raw: str, average: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = vit(1), vit(2)
    content = {
        average: from_isopatch(second.state_dict(), "vit"),
        raw: {f"module.{key}": value for key, value in from_isopatch(first.state_dict(), "vit").items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "args": argparse.Namespace(model="deit"),
        "epoch": 7,
    }
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    x = torch.randn(2, 3, 32, 32)
    with caplog.at_level(logging.INFO, logger="isopatch"):
        assert torch.equal(load(path, "vit", arguments=VIT)(x), first(x))
    assert (
        f"took the weights under '{raw}', not their moving average under '{average}' (ema does)"
        in caplog.text
    )
    with caplog.at_level(logging.INFO, logger="isopatch"):
        assert torch.equal(load(path, "vit", arguments=VIT, ema=True)(x), second(x))
    assert f"took the moving average of the weights under '{average}'" in caplog.text
    del content[raw]
    torch.save(content, path)
    with pytest.raises(UsageError, match=rf"holds only a moving average \('{average}'\): ask for it"):
        load(path, "vit", arguments=VIT)
    del content[average]
    torch.save({**content, raw: from_isopatch(first.state_dict(), "vit")}, path)
    with pytest.raises(UsageError, match="holds no moving average"):
        load(path, "vit", arguments=VIT, ema=True)


def test_torchs_averaged_model(tmp_path: Path) -> None:
    from torch.optim.swa_utils import AveragedModel

    averaged = AveragedModel(vit())
    assert "n_averaged" in averaged.state_dict()
    torch.save(averaged.state_dict(), tmp_path / "swa.pt")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(load(tmp_path / "swa.pt", "vit", arguments=VIT)(x), vit()(x))


def test_our_own_checkpoints_average(tmp_path: Path) -> None:
    first, second = vit(1), vit(2)
    save_model(tmp_path, first)
    with pytest.raises(UsageError, match=r"no moving average.*RUN/checkpoints/last"):
        load(tmp_path, ema=True)
    save_file(second.state_dict(), tmp_path / "ema.safetensors")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(load(tmp_path)(x), first(x))
    assert torch.equal(load(tmp_path, ema=True)(x), second(x))


def test_the_activation_of_a_convmixer_file_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """locuslab's 768/32 needs ReLU: nothing in the file says so, our name of it does."""
    shape = {"dim": 16, "depth": 1, "kernel_size": 7, "patch_size": 7, "image_size": 35}
    for name, activation in (("convmixer_768_32", "relu"), ("convmixer_1536_20", "gelu")):
        model = build(make_spec(name, {**shape, "num_classes": 3})).eval()
        path = tmp_path / f"{name}.pth.tar"
        torch.save({"state_dict": from_isopatch(model.state_dict(), "convmixer")}, path)
        with caplog.at_level(logging.INFO, logger="isopatch"):
            loaded = load(path, name, arguments=shape)
        assert loaded.spec.arguments["activation"] == activation
        assert f"does not say its activation; {name} has {activation}" in caplog.text
        x = torch.randn(1, 3, 35, 35)
        assert torch.equal(loaded(x), model(x))


def test_the_tally_of_googles_layout(tmp_path: Path) -> None:
    import numpy as np

    from isopatch.models.formats import npz

    model = vit()
    arrays = {k: v.numpy() for k, v in npz.from_isopatch(model.state_dict(), "vit", num_heads=2).items()}
    np.savez(
        tmp_path / "w.npz", **{f"opt/target/{k}": v for k, v in arrays.items()}, **{"opt/step": np.ones(1)}
    )
    tally = open_weights(tmp_path / "w.npz", "vit", arguments=VIT).tally
    assert (tally.in_file, tally.matched, tally.left_over) == (len(arrays), len(model.state_dict()), ())
    assert "blocks.0.token.mixer.qkv.weight" in tally.reshaped  # three arrays there, transposed
    assert "norm.weight" not in tally.reshaped


def test_a_place_dependent_part_without_a_definition_stays_fresh(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    shape = {"dim": 16, "depth": 1, "patch_size": 4}
    model = build(make_spec("mlp_mixer", {**shape, "image_size": 16, "num_classes": 3}))
    path = tmp_path / "mixer.safetensors"
    save_file(from_isopatch(model.state_dict(), "mlp_mixer"), path)
    with pytest.raises(UsageError, match="only whole multiples"):
        load(path, "mlp_mixer", arguments={**shape, "image_size": 20})
    with caplog.at_level(logging.WARNING, logger="isopatch"):
        opened = open_weights(path, "mlp_mixer", arguments={**shape, "image_size": 20}, partial=True)
    assert "only whole multiples of it are defined" in caplog.text and "partial: left as it is" in caplog.text
    assert {key.split(".")[3] for key in opened.tally.missing} == {"mixer"}
    assert torch.equal(opened.model.state_dict()["stem.proj.weight"], model.state_dict()["stem.proj.weight"])
    with pytest.raises(UsageError, match="position_resize 'cubic'"):
        load(path, "mlp_mixer", arguments={**shape, "image_size": 20}, partial=True, position_resize="cubic")


@pytest.mark.parametrize("size", [(32, 32), (24, 40)], ids=str)
def test_half_of_a_distilled_model(tmp_path: Path, size: tuple[int, int]) -> None:
    """Its table has an entry for the distillation token, which is no place: of 3x5 one too many is 4x4."""
    shape = {**VIT, "image_size": size, "num_classes": 3}
    state = from_isopatch(build(make_spec("deit", {**shape, "distilled": True})).state_dict(), "deit")
    save_file(state, tmp_path / "w.safetensors")
    del shape["num_classes"]
    with pytest.raises(IsopatchError, match="holds a distilled model, deit is a plain one"):
        load(tmp_path / "w.safetensors", "deit", arguments=shape)
    tally = open_weights(tmp_path / "w.safetensors", "deit", arguments=shape, partial=True).tally
    assert tally.missing == ("position.table",)
    assert "prefix.dist_token" in tally.left_over and "position.table" in tally.left_over
