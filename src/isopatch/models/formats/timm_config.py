"""timm's config.json, both ways: the name timm builds a model by, its arguments, its input and class names.

`timm.create_model("local-dir:FOLDER", pretrained=True)` reads it beside model.safetensors. ViT, DeiT, DeiT
III and hybrids take their sizes as arguments there; ConvMixer and the MLPs come in the sizes of timm's names.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from isopatch.errors import UsageError
from isopatch.models.architectures import architecture_function
from isopatch.models.arguments import complete
from isopatch.models.entry import ModelEntry
from isopatch.models.spec import ModelSpec
from isopatch.models.table import ALIASES, MODELS

# Names of ours in timm's families that timm 1.0.31 does not have; plain names are never timm's.
NOT_IN_TIMM = frozenset(
    {
        "simple_vit_small_patch16_224",
        "mixer_h14_224",
        "resmlp_12_patch14_224",
        "resmlp_12_patch8_224",
        "resmlp_big_24_patch16_224",
    }
)
CONVMIXERS = ("convmixer_1536_20", "convmixer_768_32", "convmixer_1024_20_ks9_p14")

# Whose builder takes every size as an argument: architecture -> the name that other sizes are written under.
_FLEXIBLE = {
    "vit": "vit_base_patch16_224",
    "deit": "deit_base_patch16_224",
    "deit3": "deit3_base_patch16_224",
    "hybrid": "vit_base_r50_s16_224",
}
_DISTILLED = "deit_base_distilled_patch16_224"
FAMILIES = (*_FLEXIBLE, "convmixer", "mlp_mixer", "resmlp", "gmlp")

_RENAMED = {
    "img_size": "image_size",
    "in_chans": "in_channels",
    "embed_dim": "dim",
    "num_blocks": "depth",
    "init_values": "layer_scale",
    "act_layer": "activation",
    "drop_path_rate": "drop_path",
}
_SAME = ("patch_size", "dim", "depth", "num_heads", "mlp_ratio", "qkv_bias", "class_token", "kernel_size")
_TRAINING = (
    "drop_rate",
    "pos_drop_rate",
    "patch_drop_rate",
    "proj_drop_rate",
    "attn_drop_rate",
    "weight_init",
)
_SIZES = ("embed_dim", "dim", "depth", "num_blocks", "num_heads", "patch_size", "mlp_ratio")


def in_timm(name: str) -> bool:
    """Whether timm builds a name of our table."""
    entry = MODELS[name]
    if entry.plain or entry.architecture not in FAMILIES or name in NOT_IN_TIMM:
        return False
    return entry.architecture != "convmixer" or name in CONVMIXERS


# --- reading --------------------------------------------------------------------------------------------


def entry_told(config: Mapping[str, Any] | None) -> ModelEntry | None:
    """Return the entry of config.json's `architecture`: the plain one where it builds another size."""
    told = (config or {}).get("architecture")
    entry = MODELS.get(ALIASES.get(told, told)) if isinstance(told, str) else None
    given = (config or {}).get("model_args") or {}
    if entry is not None and entry.architecture in MODELS and any(key in given for key in _SIZES):
        return MODELS[entry.architecture]
    return entry


def arguments_told(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return architecture arguments of `model_args`; ones without a counterpart raise UsageError.

    A plain entry (see `entry_told`) also gets what timm's name stands for.
    """
    given = dict((config or {}).get("model_args") or {})
    for key in (*_TRAINING, "num_classes"):  # the file itself says how many classes it has
        given.pop(key, None)
    entry = entry_told(config)
    named = MODELS.get(str((config or {}).get("architecture")))
    told: dict[str, Any] = {}
    if named is not None and entry is not None and entry.plain:
        told.update(named.arguments)
    architecture = "vit" if entry is None else entry.architecture
    pool = _pool_told(given.pop("global_pool", None), given.pop("fc_norm", None), named)
    if pool is not None:
        told["pool"] = pool
    if "pos_embed" in given:
        told["position"] = "learned" if given.pop("pos_embed") == "learn" else "none"
    if "no_embed_class" in given:
        told["class_position"] = not given.pop("no_embed_class")
    unknown = sorted(set(given) - set(_RENAMED) - set(_SAME))
    if unknown:
        raise UsageError(
            f"config.json builds the model with {', '.join(unknown)}, which isopatch cannot translate: "
            f"give the name and arguments of the model yourself"
        )
    told.update({_RENAMED.get(key, str(key)): value for key, value in given.items()})
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in told.items()
        if not _goes_without_saying(key, value, architecture)
    }


def _pool_told(pool: str | None, fc_norm: bool | None, named: ModelEntry | None) -> str | None:
    """Our `pool` for timm's `global_pool` and `fc_norm`."""
    if pool is None or pool == "token":
        return None if pool is None else "class"
    if pool != "avg":
        raise UsageError(f"config.json pools with '{pool}', which isopatch does not have")
    usual = None if named is None else named.arguments.get("pool")  # vit_base_patch16_gap_224 has its own
    if fc_norm is None and usual in ("norm-mean", "mean-norm"):
        return str(usual)
    return "norm-mean" if fc_norm is False else "mean-norm"


def _goes_without_saying(key: str, value: Any, architecture: str) -> bool:
    """Whether an argument says what an architecture without such a choice does anyway."""
    if key in inspect.signature(architecture_function(architecture)).parameters:
        return False
    average = architecture in ("convmixer", "mlp_mixer", "resmlp", "gmlp")
    usual = {
        "pool": "mean-norm" if average else "class",
        "position": "learned",
        "class_token": True,
        "class_position": architecture != "deit3",
        "qkv_bias": True,
        "activation": "gelu",
    }
    return key in usual and bool(usual[key] == value)


def classes_told(config: Mapping[str, Any] | None) -> tuple[str, ...] | None:
    """Return timm's `label_names` in the order of the outputs, where they are there without a gap.

    timm's older files call them `labels`.
    """
    config = config or {}
    told = config.get("pretrained_cfg") or {}
    names = config.get("label_names") or told.get("label_names") or config.get("labels")
    if isinstance(names, list | tuple):
        return tuple(str(name) for name in names)
    if isinstance(names, Mapping):
        ordered = {str(key): str(value) for key, value in names.items()}
        if set(ordered) == {str(index) for index in range(len(ordered))}:
            return tuple(ordered[str(index)] for index in range(len(ordered)))
    return None


# --- writing --------------------------------------------------------------------------------------------


def describe(spec: ModelSpec) -> dict[str, Any]:
    """Return config.json for a model; raises UsageError where timm builds no such model by name."""
    name, model_args = builder(spec)
    contract, arguments = spec.input, spec.arguments
    heads = ["head", "head_dist"] if arguments.get("distilled") else "head"
    first = {"convmixer": "stem.0", "hybrid": "patch_embed.backbone.stem.conv"}
    if spec.architecture == "hybrid" and not arguments["layers"]:
        first["hybrid"] = "patch_embed.backbone.conv"
    document: dict[str, Any] = {
        "architecture": name,
        "num_classes": arguments["num_classes"],
        "num_features": arguments["dim"],
    }
    if spec.classes is not None:
        document["label_names"] = list(spec.classes)
    if model_args:
        document["model_args"] = model_args
    document["pretrained_cfg"] = {
        "num_classes": arguments["num_classes"],
        "input_size": [arguments["in_channels"], contract.height, contract.width],
        "fixed_input_size": spec.architecture != "convmixer",
        "interpolation": contract.interpolation,
        "crop_pct": contract.crop_fraction,
        "crop_mode": "squash" if contract.resize == "squash" else "center",
        "mean": list(contract.mean),
        "std": list(contract.std),
        "first_conv": first.get(
            spec.architecture,
            "patch_embed.proj" if spec.architecture in ("vit", "deit", "deit3") else "stem.proj",
        ),
        "classifier": heads,
    }
    return document


def builder(spec: ModelSpec) -> tuple[str, dict[str, Any]]:
    """Return (timm's name, keyword arguments beside it) that build the model; see `describe`."""
    wanted = options(spec.architecture, spec.arguments)
    if spec.architecture in _FLEXIBLE:
        name = spec.name if _named_so(spec) else _base(spec)
        return name, _beside(name, spec.architecture, wanted)
    for name, entry in MODELS.items():
        if entry.architecture == spec.architecture and in_timm(name):
            beside = _beside(name, spec.architecture, wanted)
            if not beside.keys() - {"img_size", "in_chans"}:
                return name, beside
    sizes = ", ".join(n for n, e in MODELS.items() if e.architecture == spec.architecture and in_timm(n))
    raise UsageError(
        f"timm builds {spec.architecture} by name in its own sizes only ({sizes}): write the weights alone, "
        f"to a file ending in .safetensors"
    )


def options(architecture: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return what timm's class is called with; raises UsageError naming the first argument it lacks."""
    refuse_unknown(architecture, arguments)
    size = arguments["image_size"]
    common = {
        "img_size": list(size) if isinstance(size, tuple | list) else size,
        "in_chans": arguments["in_channels"],
        "patch_size": arguments["patch_size"],
    }
    if architecture == "convmixer":
        del common["img_size"]
        shape = {key: arguments[key] for key in ("dim", "depth", "kernel_size")}
        return {**common, **shape, "act_layer": arguments["activation"]}
    common |= {"embed_dim": arguments["dim"]}
    if architecture in ("mlp_mixer", "resmlp", "gmlp"):
        ratio: Any = float(arguments["mlp_ratio"])
        if architecture == "mlp_mixer":
            ratio = [float(arguments["token_ratio"]), ratio]
        activation = arguments.get("activation", "gelu")
        return {**common, "num_blocks": arguments["depth"], "mlp_ratio": ratio, "act_layer": activation}
    common |= {key: arguments[key] for key in ("depth", "num_heads")}
    common |= {"mlp_ratio": float(arguments["mlp_ratio"]), "act_layer": arguments.get("activation", "gelu")}
    if architecture == "hybrid":
        return {**common, "layers": list(arguments["layers"])}
    common["qkv_bias"] = arguments.get("qkv_bias", True)
    if architecture == "deit":
        return {**common, "distilled": arguments["distilled"]}
    if arguments["layer_scale"] is not None:
        common["init_values"] = arguments["layer_scale"]
    if architecture == "deit3":
        return common
    pool = arguments["pool"]
    if pool != "class":
        common["fc_norm"] = pool == "mean-norm"
    return {
        **common,
        "class_token": arguments["class_token"],
        "pos_embed": "learn" if arguments["position"] == "learned" else "none",
        "no_embed_class": not arguments["class_position"],
        "global_pool": "token" if pool == "class" else "avg",
    }


def refuse_unknown(architecture: str, arguments: Mapping[str, Any], *, alone: bool = False) -> None:
    """Raise UsageError for a model that no class of timm computes.

    alone: weights without a config.json. Relative positions then have a class in timm, but no name builds it
    without layer scales.
    """
    if architecture not in FAMILIES:
        raise UsageError(f"timm has no {architecture}; it has {', '.join(FAMILIES)}")
    if arguments.get("pre_logits"):
        raise UsageError("timm's models have no layer before the classifier: pre_logits has no place there")
    if arguments.get("patch_norm"):
        raise UsageError("timm's ViT has no LayerNorm around the patch projection (patch_norm)")
    positions = ("learned", "none", "relative") if alone else ("learned", "none")
    if arguments.get("position", "learned") not in positions:
        raise UsageError(
            f"timm's ViT has no position '{arguments['position']}' (it has {', '.join(positions)})"
        )


def _named_so(spec: ModelSpec) -> bool:
    """Whether timm has the model's own name, for a model that its arguments can make of it."""
    if not in_timm(spec.name):
        return False
    own = MODELS[spec.name].arguments
    return all(own.get(key) == spec.arguments.get(key) for key in ("layers", "distilled") if key in own)


def _base(spec: ModelSpec) -> str:
    """The name that a size of its own is written under."""
    if spec.arguments.get("distilled"):
        return _DISTILLED
    if spec.architecture != "hybrid":
        return _FLEXIBLE[spec.architecture]
    layers = list(spec.arguments["layers"])
    for name, entry in MODELS.items():
        if entry.architecture == "hybrid" and in_timm(name) and entry.arguments["layers"] == layers:
            return name
    raise UsageError(f"timm has no hybrid whose ResNet has stages of {layers} blocks")


def _beside(name: str, architecture: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from the arguments that a name stands for."""
    own = complete(architecture_function(architecture), MODELS[name].arguments)
    held = options(architecture, own)
    if held.keys() - wanted.keys():
        raise UsageError(f"timm's {name} cannot be built without {', '.join(held.keys() - wanted.keys())}")
    return {key: value for key, value in wanted.items() if key not in held or held[key] != value}
