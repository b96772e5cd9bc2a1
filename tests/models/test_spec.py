from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from isopatch.errors import UsageError
from isopatch.models.spec import ModelSpec, build, check_arguments, make_spec, no_weight_decay

VIT: dict[str, Any] = {
    "dim": 16,
    "depth": 2,
    "num_heads": 2,
    "patch_size": 4,
    "image_size": 32,
    "num_classes": 5,
}
CONV: dict[str, Any] = {"dim": 16, "depth": 2, "kernel_size": 5, "patch_size": 4, "image_size": 32}


def test_spec_survives_json() -> None:
    spec = make_spec(
        "vit",
        {**VIT, "image_size": (32, 48), "layer_scale": 0.1},
        input_overrides={"mean": (0.1, 0.2, 0.3), "crop_fraction": None},
        classes=["a", "b", "c", "d", "e"],
    )
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert spec.arguments["image_size"] == [32, 48]
    assert (spec.input.height, spec.input.width) == (32, 48)
    assert spec.input.mean == (0.1, 0.2, 0.3)
    assert spec.classes == ("a", "b", "c", "d", "e")
    again = build(ModelSpec.from_json(spec.to_json()))
    assert again(torch.randn(1, 3, 32, 48)).shape == (1, 5)


def test_arguments_are_complete() -> None:
    spec = make_spec("deit_tiny", {"num_classes": 7})
    assert spec.name == "deit_tiny_patch16_224"
    assert spec.arguments["drop_path"] == 0.0
    assert spec.arguments["distilled"] is False
    assert spec.arguments["num_classes"] == 7
    assert spec.arguments["dim"] == 192


@pytest.mark.parametrize("damage", [{"extra": 1}, {"name": ...}])
def test_a_description_with_other_keys_is_refused(damage: dict[str, Any]) -> None:
    values = make_spec("vit", VIT).to_json()
    for key, value in damage.items():
        if value is ...:
            del values[key]
        else:
            values[key] = value
    with pytest.raises(UsageError, match="model description has keys"):
        ModelSpec.from_json(values)


@pytest.mark.parametrize(
    ("name", "arguments", "problem"),
    [
        ("convmixer", {**CONV, "kernal_size": 9}, "model.kernal_size: unknown (did you mean 'kernel_size'?)"),
        ("convmixer", {**CONV, "dim": 8.5}, "model.dim: 8.5 is not an integer"),
        ("convmixer", {**CONV, "depth": True}, "model.depth: True is not an integer"),
        ("convmixer", {**CONV, "dim": "64"}, "model.dim: '64' is not an integer"),
        (
            "convmixer",
            {**CONV, "activation": "swish"},
            "model.activation: 'swish' is not one of gelu, gelu_tanh, relu",
        ),
        ("convmixer", {**CONV, "drop_path": 0.1}, "model.drop_path: unknown"),
        ("vit", {**VIT, "qkv_bias": 1}, "model.qkv_bias: 1 is not true or false"),
        ("vit", {**VIT, "layer_scale": "small"}, "model.layer_scale: 'small' is not a number or nothing"),
        ("vit", {**VIT, "image_size": (32, 32, 3)}, "model.image_size: (32, 32, 3) is not an integer or"),
        ("vit", {**VIT, "image_size": "32"}, "model.image_size: '32' is not an integer or"),
        ("vit", {k: v for k, v in VIT.items() if k != "dim"}, "model.dim: missing; give an integer"),
        ("vit", {**VIT, "image_size": 30}, "model: image_size 30x30 is not divisible by patch_size 4"),
        ("vit", {**VIT, "num_heads": 3}, "model: dim 16 is not divisible by num_heads 3"),
        ("deit_tiny", {"drop_path": 1.5}, "model: drop_path 1.5"),
    ],
)
def test_problems_of_a_model_node(name: str, arguments: dict[str, Any], problem: str) -> None:
    found = check_arguments(name, arguments)
    assert len(found) == 1
    assert problem in found[0]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit", VIT),
        ("vit", {**VIT, "mlp_ratio": 2, "image_size": [32, 16], "layer_scale": None}),
        ("convmixer", CONV),
        ("convmixer_1536_20", {"kernel_size": 9, "patch_size": 1, "image_size": 32, "num_classes": 10}),
        ("deit_tiny", {}),
    ],
)
def test_good_nodes_have_no_problem(name: str, arguments: dict[str, Any]) -> None:
    assert check_arguments(name, arguments) == []


def test_all_problems_are_told_at_once() -> None:
    found = check_arguments("convmixer", {**CONV, "dim": "a", "depht": 3, "patch_size": 1.5})
    assert len(found) == 3
    with pytest.raises(UsageError, match=r"model\.dim.*model\.patch_size.*model\.depht"):
        make_spec("convmixer", {**CONV, "dim": "a", "patch_size": 1.5, "depht": 3})


def test_overriding_a_named_model() -> None:
    spec = make_spec("convmixer_1536_20", {"dim": 16, "depth": 2, "patch_size": 1, "image_size": 32})
    assert spec.input.crop_fraction == 1.0
    assert make_spec("convmixer_1536_20", {"image_size": 256}).input.crop_fraction == 0.96
    assert build(spec).features(torch.randn(1, 3, 32, 32)).grid == (32, 32)


@pytest.mark.parametrize(("size", "crop"), [(32, 1.0), (64, 1.0), ((64, 32), 1.0), (68, 0.9)])
def test_small_pictures_are_taken_whole(size: int | tuple[int, int], crop: float) -> None:
    assert make_spec("vit", {**VIT, "image_size": size}).input.crop_fraction == crop


def test_input_overrides_win() -> None:
    spec = make_spec("vit", VIT, input_overrides={"crop_fraction": 0.5, "interpolation": "bilinear"})
    assert (spec.input.crop_fraction, spec.input.interpolation) == (0.5, "bilinear")
    with pytest.raises(UsageError, match=r"input\.blur: unknown"):
        make_spec("vit", VIT, input_overrides={"blur": 1})


def test_class_names_give_the_number() -> None:
    assert make_spec("deit_tiny", {}, classes=["a", "b"]).arguments["num_classes"] == 2
    with pytest.raises(UsageError, match=r"model\.num_classes 3: there are 2 class names"):
        make_spec("deit_tiny", {"num_classes": 3}, classes=["a", "b"])


def test_build_is_a_function_of_the_global_seed() -> None:
    spec = make_spec("vit", VIT)
    torch.manual_seed(1)
    first = build(spec).state_dict()
    torch.manual_seed(1)
    second = build(spec).state_dict()
    third = build(spec).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], third[key]) for key in first)


def test_an_unknown_architecture_is_refused() -> None:
    values = {**make_spec("vit", VIT).to_json(), "architecture": "resnet"}
    with pytest.raises(
        UsageError, match="unknown architecture 'resnet': expected one of vit, deit, deit3, convmixer"
    ):
        build(ModelSpec.from_json(values))


def test_no_weight_decay_names() -> None:
    relative = build(make_spec("vit", {**VIT, "position": "relative"}))
    assert no_weight_decay(relative) == {
        "prefix.cls_token",
        "blocks.0.token.mixer.relative_bias.table",
        "blocks.1.token.mixer.relative_bias.table",
    }
    axes = build(make_spec("vit", {**VIT, "position": "learned-2d"}))
    assert no_weight_decay(axes) == {"prefix.cls_token", "position.x", "position.y"}
    for model in (relative, axes):
        assert no_weight_decay(model) <= {name for name, _ in model.named_parameters()}
    assert no_weight_decay(build(make_spec("convmixer", CONV))) == set()


def test_the_table_needs_no_torch() -> None:
    code = (
        "import sys; import isopatch.models.spec as s; from isopatch.models import render; "
        "assert s.resolve('deit_tiny').arguments['dim'] == 192; render.render_list(); "
        "heavy = {'torch', 'numpy', 'timm', 'torchvision'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
