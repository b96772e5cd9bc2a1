"""Folders of Hugging Face transformers: ViTForImageClassification and DeiT's with both classifiers.

`config.json` has the sizes, `preprocessor_config.json` what pictures are prepared to. query, key and value
are three layers there, one here. Their LayerNorms have eps 1e-12 unless the configuration says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from isopatch.errors import UsageError
from isopatch.models.formats.keymap import Rules, State, rename, reverse

KINDS = {
    "ViTForImageClassification": "vit",
    "DeiTForImageClassificationWithTeacher": "deit",
}
_ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}
_INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # PIL's numbers
_PARTS = ("query", "key", "value")

_LAYER = "encoder.layer.{i}."
_RULES: Rules = (
    ("embeddings.cls_token", "prefix.cls_token"),
    ("embeddings.distillation_token", "prefix.dist_token"),
    ("embeddings.position_embeddings", "position.table"),
    ("embeddings.patch_embeddings.projection.*", "stem.proj.*"),
    (_LAYER + "layernorm_before.*", "blocks.{i}.token.norm.*"),
    *((f"{_LAYER}attention.attention.{part}.*", f"blocks.{{i}}.token.mixer.{part}.*") for part in _PARTS),
    (_LAYER + "attention.output.dense.*", "blocks.{i}.token.mixer.proj.*"),
    (_LAYER + "layernorm_after.*", "blocks.{i}.channel.norm.*"),
    (_LAYER + "intermediate.dense.*", "blocks.{i}.channel.mixer.fc1.*"),
    (_LAYER + "output.dense.*", "blocks.{i}.channel.mixer.fc2.*"),
    ("layernorm.*", "norm.*"),
    ("classifier.*", "heads.cls.linear.*"),
    ("cls_classifier.*", "heads.cls.linear.*"),
    ("distillation_classifier.*", "heads.dist.linear.*"),
)


@dataclass(frozen=True)
class Told:
    """What the two configuration files say. classes: None where the labels are transformers' placeholders."""

    name: str
    arguments: dict[str, Any]
    input: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None


def is_transformers(config: Mapping[str, Any] | None) -> bool:
    """Whether a config.json is transformers'."""
    return config is not None and "model_type" in config


def told_by(config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None, *, where: str) -> Told:
    """Translate config.json and preprocessor_config.json.

    Raises UsageError for a model other than the two kinds, and for settings that have no counterpart here.
    """
    architectures = config.get("architectures") or []
    kind = next((KINDS[a] for a in architectures if a in KINDS), None)
    if kind is None:
        raise UsageError(
            f"{where}: transformers' {', '.join(map(str, architectures)) or config.get('model_type')} is not "
            f"read; isopatch reads {' and '.join(KINDS)}"
        )
    activation = _ACTIVATIONS.get(str(config.get("hidden_act", "gelu")))
    if activation is None:
        raise UsageError(f"{where}: hidden_act '{config['hidden_act']}' has no counterpart in isopatch")
    dim = int(config["hidden_size"])
    arguments: dict[str, Any] = {
        "dim": dim,
        "depth": int(config["num_hidden_layers"]),
        "num_heads": int(config["num_attention_heads"]),
        "mlp_ratio": _ratio(int(config["intermediate_size"]), dim),
        "patch_size": int(config["patch_size"]),
        "image_size": config["image_size"],
        "in_channels": int(config.get("num_channels", 3)),
        "norm_eps": float(config.get("layer_norm_eps", 1e-12)),
        "qkv_bias": bool(config.get("qkv_bias", True)),
        "activation": activation,
    }
    if kind == "deit":
        arguments["distilled"] = True
    labels = config.get("id2label") or {}
    names = tuple(str(labels[key]) for key in sorted(labels, key=int))
    classes = None if not names or names[0] == "LABEL_0" else names
    return Told(kind, arguments, _input(preprocessor or {}), classes)


def to_isopatch(state: Mapping[str, Tensor]) -> State:
    """Rename transformers' tensors to ours and join query, key and value."""
    bare = {key.removeprefix("vit.").removeprefix("deit."): tensor for key, tensor in state.items()}
    renamed = rename(bare, _RULES)
    result: State = {}
    for key, tensor in renamed.items():
        layer, _, rest = key.rpartition(".token.mixer.")
        part, _, leaf = rest.partition(".")
        if part == "query":
            others = [renamed.get(f"{layer}.token.mixer.{other}.{leaf}") for other in ("key", "value")]
            result[f"{layer}.token.mixer.qkv.{leaf}"] = torch.cat(
                [tensor, *(t for t in others if t is not None)]
            )
        elif part not in ("key", "value"):
            result[key] = tensor
    return result


def from_isopatch(state: Mapping[str, Tensor], *, distilled: bool) -> State:
    """Rename our tensors to transformers' and take query, key and value apart."""
    apart: State = {}
    for key, tensor in state.items():
        if ".token.mixer.qkv." in key:
            for part, rows in zip(_PARTS, tensor.chunk(3), strict=True):
                apart[key.replace(".qkv.", f".{part}.")] = rows.contiguous()
        else:
            apart[key] = tensor
    unused = "classifier.*" if distilled else "cls_classifier.*"
    renamed = rename(apart, reverse([rule for rule in _RULES if rule[0] != unused]))
    model = "deit." if distilled else "vit."
    return {key if "classifier" in key else model + key: tensor for key, tensor in renamed.items()}


def _input(preprocessor: Mapping[str, Any]) -> dict[str, Any]:
    """The input contract's fields, as far as the preprocessor says them."""
    told: dict[str, Any] = {}
    for theirs, ours in (("image_mean", "mean"), ("image_std", "std")):
        if preprocessor.get(theirs):
            told[ours] = tuple(float(value) for value in preprocessor[theirs])
    interpolation = _INTERPOLATIONS.get(preprocessor.get("resample", -1))
    if interpolation is not None:
        told["interpolation"] = interpolation
    size, crop = preprocessor.get("size"), _side(preprocessor.get("crop_size"))
    resized = _side(size)
    if preprocessor.get("do_center_crop") and resized and crop and crop <= resized:
        told["crop_fraction"] = _share(crop, resized)
    else:  # ViT's processor resizes to the square without a crop
        told["crop_fraction"] = 1.0
    shortest = isinstance(size, Mapping) and "shortest_edge" in size
    told["resize"] = "shorter" if shortest else "squash"
    return told if preprocessor else {}


def _share(crop: int, resized: int) -> float:
    """The crop's share of the resized side, so that floor(crop / share) is that side again."""
    share = crop / resized
    return share if math.floor(crop / share) == resized else math.nextafter(share, 0.0)


def _ratio(hidden: int, dim: int) -> float:
    """The MLP's width over the model's, so that int(dim * ratio) is that width again."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf)


def _side(size: Any) -> int | None:
    if isinstance(size, Mapping):
        size = size.get("shortest_edge") or size.get("height")
    return size if isinstance(size, int) else None
