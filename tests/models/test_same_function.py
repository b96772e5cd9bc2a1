"""Weights that fit in name and shape and belong to another function: followed as told, or refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from isopatch.errors import IsopatchError, UsageError
from isopatch.models.formats import npz, timm, timm_config
from isopatch.models.load import load
from isopatch.models.spec import build, make_spec
from isopatch.nn.classifier import Classifier

VIT: dict[str, Any] = {"dim": 24, "depth": 2, "num_heads": 2, "patch_size": 4, "image_size": 16}


def random_model(name: str = "vit", **arguments: Any) -> Classifier:
    model = build(make_spec(name, {"num_classes": 3, **arguments})).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def timm_state(model: Classifier) -> dict[str, Tensor]:
    after = model.spec.arguments.get("pool") == "mean-norm"
    return timm.from_isopatch(model.state_dict(), model.spec.architecture, norm_after_pool=after)


def timm_folder(folder: Path, model: Classifier) -> dict[str, Any]:
    """Write a folder of timm's; return its config.json."""
    folder.mkdir()
    save_file(timm_state(model), folder / "model.safetensors")
    config = timm_config.describe(model.spec)
    (folder / "config.json").write_text(json.dumps(config))
    return config


def google(path: Path, model: Classifier) -> Path:
    state = npz.from_isopatch(model.state_dict(), "vit", num_heads=model.spec.arguments["num_heads"])
    np.savez(path, **{key: tensor.numpy() for key, tensor in state.items()})
    return path


def same(first: Classifier, second: Classifier) -> bool:
    contract = second.spec.input
    x = torch.randn(2, 3, contract.height, contract.width, generator=torch.Generator().manual_seed(1))
    return torch.equal(first(x), second(x))


def test_a_final_norm_after_the_average_does_not_go_before_it(tmp_path: Path) -> None:
    model = random_model(**VIT, pool="mean-norm")
    path = tmp_path / "w.safetensors"
    save_file(timm_state(model), path)
    assert same(load(path, "vit", arguments={**VIT, "pool": "mean-norm"}), model)
    for name, pool in (("vit", {}), ("vit", {"pool": "norm-mean"}), ("deit", {})):
        with pytest.raises(IsopatchError, match=r"after the average \(fc_norm\), and \w+ has pool"):
            load(path, name, arguments={**VIT, **pool})


def test_a_name_that_confirms_the_config_does_not_silence_it(tmp_path: Path) -> None:
    model = random_model("vit_tiny_patch16_224", image_size=32, pool="norm-mean")
    timm_folder(tmp_path / "m", model)
    for name in (None, "vit_tiny_patch16_224"):
        loaded = load(tmp_path / "m", name)
        assert loaded.spec.arguments == model.spec.arguments
        assert same(loaded, model)
    assert load(tmp_path / "m", "vit_tiny", image_size=48).spec.arguments["pool"] == "norm-mean"


def test_a_config_that_cannot_be_followed_is_said_where_the_name_stands_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = random_model("vit_tiny_patch16_224", image_size=32)
    config = timm_folder(tmp_path / "m", model)
    config["model_args"]["reg_tokens"] = 0
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="reg_tokens, which isopatch cannot translate"):
        load(tmp_path / "m")
    with caplog.at_level(logging.WARNING, logger="isopatch"):
        assert same(load(tmp_path / "m", "vit_tiny", image_size=32), model)
    assert "not followed: vit_tiny_patch16_224 is built as it was named" in caplog.text


def test_timms_size_without_img_size_is_the_one_of_its_input(tmp_path: Path) -> None:
    """timm builds for `input_size`; a model of another size of its own is no exception."""
    model = random_model(**VIT)
    config = timm_folder(tmp_path / "m", model)
    del config["model_args"]["img_size"]
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    loaded = load(tmp_path / "m")
    assert loaded.spec.arguments["image_size"] == 16
    assert same(loaded, model)


def test_the_trained_grid_of_a_rectangle_is_its_own_patches(tmp_path: Path) -> None:
    """8x4 places are no square; with other patches asked for, nothing but the config says what they were."""
    model = random_model(**{**VIT, "image_size": (32, 16), "class_token": False, "pool": "norm-mean"})
    timm_folder(tmp_path / "m", model)
    loaded = load(tmp_path / "m", arguments={"patch_size": 8})
    assert loaded(torch.zeros(1, 3, 32, 16)).shape == (1, 3)


def test_timms_older_flat_config_keeps_the_input_settings_and_class_names(tmp_path: Path) -> None:
    config = timm_folder(tmp_path / "m", random_model("vit_tiny_patch16_224", image_size=32))
    flat = {**config.pop("pretrained_cfg"), **config, "labels": ["ant", "bee", "cat"]}
    flat |= {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "crop_pct": 0.7, "interpolation": "bilinear"}
    (tmp_path / "m" / "config.json").write_text(json.dumps(flat))
    spec = load(tmp_path / "m").spec
    assert (spec.input.mean, spec.input.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (spec.input.crop_fraction, spec.input.interpolation) == (0.7, "bilinear")
    assert (spec.input.height, spec.classes) == (32, ("ant", "bee", "cat"))


def test_a_preparation_that_isopatch_lacks_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = timm_folder(tmp_path / "m", random_model("vit_tiny_patch16_224", image_size=32))
    config["pretrained_cfg"] |= {"crop_mode": "border", "interpolation": "lanczos"}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with caplog.at_level(logging.WARNING, logger="isopatch"):
        load(tmp_path / "m")
    assert "crop_mode 'border'" in caplog.text and "interpolation 'lanczos'" in caplog.text


def test_another_number_of_classes_among_the_arguments_is_not_dropped(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(timm_state(random_model(**VIT)), path)
    with pytest.raises(UsageError, match="classifier has 3 classes, not 7: leave the argument num_classes"):
        load(path, "vit", arguments={**VIT, "num_classes": 7})
    assert load(path, "vit", arguments={**VIT, "num_classes": 3}).spec.arguments["num_classes"] == 3
    assert load(path, "vit", num_classes=7, arguments=VIT).spec.arguments["num_classes"] == 7


def test_a_class_tokens_position_is_not_taken_for_a_place(tmp_path: Path) -> None:
    """4x6 places and the class token are 25 entries: as many as a 5x5 table without one."""
    model = random_model(**{**VIT, "image_size": (16, 24)})
    path = google(tmp_path / "w.npz", model)
    assert same(load(path, "vit", arguments={**VIT, "image_size": (16, 24)}), model)


def test_heads_of_googles_files_are_compared(tmp_path: Path) -> None:
    path = google(tmp_path / "w.npz", random_model(**{**VIT, "num_heads": 4}))
    with pytest.raises(IsopatchError, match="attention heads 4 in the file, 2 in vit"):
        load(path, "vit", arguments=VIT)
    assert load(path, "vit", arguments={**VIT, "num_heads": 4})


def test_arrays_of_another_byte_order_are_read(tmp_path: Path) -> None:
    model = random_model(**VIT)
    with np.load(google(tmp_path / "w.npz", model)) as file:
        arrays = {key: file[key].astype(">f4") for key in file.files}
    np.savez(tmp_path / "big.npz", **arrays)
    assert same(load(tmp_path / "big.npz", "vit", arguments=VIT), model)


# --- values that are no weights -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: (10 * t).to(torch.int8), "int8 values that are no plain floating-point"),
        (lambda t: t.to(torch.complex64), "complex64 values"),
        (lambda t: t.to_sparse(), "no plain floating-point numbers"),
        (lambda t: t.to("meta"), "no plain floating-point numbers"),
        (lambda t: t.double() * 1e300, "not finite"),  # finite there, infinite here
        (lambda t: (t * float("nan")).half(), "not finite"),
        (lambda t: (t * float("nan")).bfloat16(), "not finite"),
        (lambda t: (t * float("nan")).to(torch.float8_e4m3fn), "not finite"),
    ],
)
def test_values_that_cannot_be_the_models_are_refused(tmp_path: Path, spoil: Any, message: str) -> None:
    state = {key: tensor.detach() for key, tensor in timm_state(random_model(**VIT)).items()}
    path = tmp_path / "w.pth"
    torch.save(state, path)
    assert load(path, "vit", arguments=VIT)  # control
    torch.save({**state, "head.weight": spoil(state["head.weight"])}, path)
    for partial in (False, True):
        with pytest.raises(IsopatchError, match=rf"w\.pth: heads\.cls\.linear\.weight holds .*{message}"):
            load(path, "vit", arguments=VIT, partial=partial)


# --- configurations that are damaged --------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        {"model_args": -1},
        {"model_args": "x"},
        {"pretrained_cfg": -1},
        {"pretrained_cfg": {"input_size": {}}},
        {"pretrained_cfg": {"input_size": [3, "x", 32]}},
        {"pretrained_cfg": {"mean": "grey"}},
    ],
    ids=str,
)
def test_a_damaged_config_of_timm_is_one_line(tmp_path: Path, damage: dict[str, Any]) -> None:
    config = timm_folder(tmp_path / "m", random_model("vit_tiny_patch16_224", image_size=32))
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | damage))
    with pytest.raises(IsopatchError, match=r"configuration beside it is damaged") as error:
        load(tmp_path / "m")
    assert "\n" not in str(error.value)
