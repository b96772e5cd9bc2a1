"""timm's config.json: what it says of the model, both ways; timm itself reads it in tests/parity."""

from __future__ import annotations

from typing import Any

import pytest

from isopatch.errors import UsageError
from isopatch.models.formats import timm_config
from isopatch.models.spec import make_spec


def told(architecture: str, **model_args: Any) -> tuple[str, dict[str, Any]]:
    config = {"architecture": architecture, "model_args": model_args}
    entry = timm_config.entry_told(config)
    assert entry is not None
    return entry.name, timm_config.arguments_told(config)


def test_what_timm_always_writes_changes_nothing() -> None:
    always = {
        "num_classes": 7,
        "in_chans": 3,
        "global_pool": "token",
        "drop_path_rate": 0.1,
        "drop_rate": 0.2,
    }
    assert told("deit3_small_patch16_224", **always)[1] == {"in_channels": 3, "drop_path": 0.1}
    assert told("convmixer_768_32", global_pool="avg")[1] == {}
    assert told("vit_base_patch16_gap_224", global_pool="avg")[1] == {"pool": "norm-mean"}
    assert told("vit_tiny_patch16_224", img_size=[32, 48])[1] == {"image_size": (32, 48)}


def test_another_size_has_the_plain_name() -> None:
    name, arguments = told("deit_base_distilled_patch16_224", embed_dim=48, num_heads=3, depth=2)
    assert name == "deit"
    assert (arguments["dim"], arguments["distilled"], arguments["patch_size"]) == (48, True, 16)
    assert told("deit3_base_patch16_224", embed_dim=48)[0] == "deit3_base_patch16_224"


@pytest.mark.parametrize(
    ("given", "pool"),
    [
        ({"global_pool": "token"}, "class"),
        ({"global_pool": "avg"}, "mean-norm"),
        ({"global_pool": "avg", "fc_norm": True}, "mean-norm"),
        ({"global_pool": "avg", "fc_norm": False}, "norm-mean"),
    ],
)
def test_pooling(given: dict[str, Any], pool: str) -> None:
    assert told("vit_base_patch16_224", **given)[1]["pool"] == pool


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"reg_tokens": 4, "qk_norm": True}, "with qk_norm, reg_tokens, which isopatch cannot translate"),
        ({"global_pool": "map"}, "pools with 'map'"),
    ],
)
def test_what_has_no_counterpart_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        told("vit_base_patch16_224", **given)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "b"], ("a", "b")),
        ({"1": "b", "0": "a"}, ("a", "b")),
        ({"0": "a", "5": "b"}, None),
        (None, None),
    ],
)
def test_class_names(names: Any, expected: tuple[str, ...] | None) -> None:
    assert timm_config.classes_told({"label_names": names}) == expected
    assert timm_config.classes_told({"pretrained_cfg": {"label_names": names}}) == expected


def test_a_published_size_is_its_name_alone() -> None:
    for name in ("vit_base_patch16_gap_224", "deit_tiny_distilled_patch16_224", "vit_tiny_r_s16_p8_224",
                 "convmixer_768_32", "mixer_b16_224", "resmlp_big_24_224", "gmlp_s16_224"):  # fmt: skip
        assert timm_config.builder(make_spec(name, {})) == (name, {})


def test_what_differs_stands_beside_the_name() -> None:
    vit = make_spec(
        "vit_tiny_patch16_224", {"image_size": (32, 48), "activation": "relu", "layer_scale": 0.1}
    )
    assert timm_config.builder(vit) == (
        "vit_tiny_patch16_224", {"img_size": [32, 48], "act_layer": "relu", "init_values": 0.1}
    )  # fmt: skip
    assert timm_config.builder(make_spec("mixer_b16_224", {"image_size": 64})) == (
        "mixer_b16_224", {"img_size": 64}
    )  # fmt: skip
    same = make_spec("mixer_b16_224", {}).arguments
    assert timm_config.builder(make_spec("mlp_mixer", same))[0] == "mixer_b16_224"
    distilled = make_spec("deit_tiny_patch16_224", {"distilled": True})
    assert timm_config.builder(distilled)[0] == "deit_base_distilled_patch16_224"
    with pytest.raises(UsageError, match=r"stages of \[1, 1\] blocks"):
        timm_config.builder(make_spec("vit_base_r50_s16_224", {"layers": [1, 1]}))
