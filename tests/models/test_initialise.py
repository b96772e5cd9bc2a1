"""Initialisation statistics per parameter group, against the values of the papers' code."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from isopatch.models.spec import build, make_spec
from isopatch.nn.skeleton import Isotropic

SHAPE: dict[str, Any] = {"dim": 192, "depth": 2, "num_heads": 3, "patch_size": 16, "image_size": 160}
SHAPE["num_classes"] = 1000


def model_of(name: str, **more: Any) -> Isotropic:
    torch.manual_seed(0)
    return build(make_spec(name, {**SHAPE, **more}))


def assert_normal(tensor: Tensor, std: float) -> None:
    """Mean 0, the deviation `std`, and tails like a normal's, within five standard errors."""
    values = tensor.detach().flatten().double()
    count = len(values)
    assert count > 150
    assert abs(float(values.mean())) < 5 * std / count**0.5
    assert float(values.std()) == pytest.approx(std, rel=5 / (2 * count) ** 0.5)
    beyond = float((values.abs() > 2 * std).double().mean())
    assert beyond == pytest.approx(0.0455, abs=5 * (0.0455 / count) ** 0.5)


def assert_uniform(tensor: Tensor, bound: float) -> None:
    values = tensor.detach().flatten().double()
    assert float(values.abs().max()) <= bound
    assert float(values.std()) == pytest.approx(bound / 3**0.5, rel=5 / len(values) ** 0.5)


def is_constant(tensor: Tensor, value: float) -> bool:
    return bool((tensor == value).all())


@pytest.mark.parametrize(
    ("name", "more", "cls_std"),
    [
        ("deit_tiny", {}, 0.02),
        ("deit_tiny_distilled", {}, 0.02),
        ("deit3_small", {}, 0.02),
        ("vit", {"init": "deit"}, 0.02),
        ("vit", {"init": "timm"}, 1e-6),
    ],
)
def test_truncated_normal(name: str, more: dict[str, Any], cls_std: float) -> None:
    model = model_of(name, **more)
    for key, parameter in model.named_parameters():
        if key == "prefix.cls_token":
            assert_normal(parameter, cls_std)
        elif key in ("prefix.dist_token", "position.table"):
            assert_normal(parameter, 0.02)
        elif key == "stem.proj.weight":
            assert_uniform(parameter, 1 / (3 * 16 * 16) ** 0.5)  # kaiming-uniform with a = sqrt(5)
        elif key == "stem.proj.bias":
            assert_uniform(parameter, 1 / (3 * 16 * 16) ** 0.5)
        elif ".norm." in key or key.startswith("norm."):
            assert is_constant(parameter, 1.0 if key.endswith("weight") else 0.0), key
        elif key.endswith("scale"):
            assert is_constant(parameter, 1e-4), key
        elif key.endswith("bias"):
            assert is_constant(parameter, 0.0), key
        else:
            assert_normal(parameter, 0.02)


def test_the_statistics_would_notice_another_deviation() -> None:
    # Negative control.
    with pytest.raises(AssertionError):
        assert_normal(model_of("deit_tiny").heads["cls"].linear.weight, 0.022)


def test_jax() -> None:
    model = model_of("vit", init="jax", pre_logits=True)
    dim, hidden, patch = 192, 768, 3 * 16 * 16
    for key, parameter in ((key, p.detach()) for key, p in model.named_parameters()):
        if key.endswith("qkv.weight"):
            for part in parameter.chunk(3):
                assert_uniform(part, (6 / (2 * dim)) ** 0.5)  # q, k and v are layers of their own in Flax
        elif key.endswith("mixer.proj.weight"):
            assert_uniform(parameter, (6 / (2 * dim)) ** 0.5)
        elif key.endswith(("fc1.weight", "fc2.weight")):
            assert_uniform(parameter, (6 / (dim + hidden)) ** 0.5)
        elif key.endswith(("fc1.bias", "fc2.bias")):
            assert_normal(parameter, 1e-6)
        elif key == "position.table":
            assert_normal(parameter, 0.02)
        elif key == "stem.proj.weight":
            assert float(parameter.std()) == pytest.approx(math.sqrt(1 / patch), rel=0.02)
            assert float(parameter.abs().max()) < 2.3 * math.sqrt(1 / patch)  # cut at two deviations
        elif key == "heads.cls.pre_logits.weight":
            assert float(parameter.std()) == pytest.approx(math.sqrt(1 / dim), rel=0.02)
        elif ".norm." in key or key.startswith("norm."):
            assert is_constant(parameter, 1.0 if key.endswith("weight") else 0.0), key
        else:
            assert is_constant(parameter, 0.0), key  # class token, classifier, the other biases


def test_head_bias() -> None:
    model = model_of("vit", init="jax", head_bias=-6.9)
    assert is_constant(model.heads["cls"].linear.bias, torch.tensor(-6.9).item())
    x = torch.randn(2, 3, 160, 160)
    torch.testing.assert_close(model.eval()(x), torch.full((2, 1000), -6.9))


@pytest.mark.parametrize("position", ["learned-2d", "relative"])
def test_other_positions(position: str) -> None:
    model = model_of("vit", position=position)
    tables = {k: p for k, p in model.named_parameters() if k.startswith("position.") or k.endswith(".table")}
    assert tables
    for table in tables.values():
        assert_normal(table, 0.02)


def test_convmixer_keeps_pytorchs_defaults() -> None:
    torch.manual_seed(0)
    model = build(make_spec("convmixer_256_8_ks5_p2", {"depth": 1}))
    for key, fan_in in (("stem.proj", 12), ("blocks.0.depthwise", 25), ("blocks.0.pointwise", 256)):
        assert_uniform(model.get_parameter(f"{key}.weight"), 1 / fan_in**0.5)
        assert_uniform(model.get_parameter(f"{key}.bias"), 1 / fan_in**0.5)
    assert_uniform(model.heads["cls"].linear.weight, 1 / 256**0.5)
    for norm in (model.stem.norm, model.blocks[0].depthwise_norm, model.blocks[0].pointwise_norm):
        assert is_constant(norm.weight, 1.0)
        assert is_constant(norm.bias, 0.0)
        assert (norm.eps, norm.momentum) == (1e-5, 0.1)
