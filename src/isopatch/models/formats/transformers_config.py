"""config.json and preprocessor_config.json as transformers reads them: ViT, and DeiT with both classifiers.

A DeiT without the distillation token is a ViT there, as in the checkpoints its authors publish.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from isopatch.errors import UsageError
from isopatch.image.contract import InputContract
from isopatch.models.spec import ModelSpec

# Classes of image processors by (resize, whether a centre is cut afterwards).
_PROCESSORS = {
    ("squash", False): "ViTImageProcessor",
    ("squash", True): "DeiTImageProcessor",
    ("shorter", False): "BitImageProcessor",
    ("shorter", True): "BitImageProcessor",
}
_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "relu": "relu"}
_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # PIL's numbers


def describe(spec: ModelSpec) -> dict[str, Any]:
    """Return config.json of a model; raises UsageError naming the first part that transformers lacks."""
    refuse_unknown(spec.architecture, spec.arguments)
    arguments = spec.arguments
    distilled = bool(arguments.get("distilled"))
    names = spec.classes or tuple(f"LABEL_{index}" for index in range(arguments["num_classes"]))
    size = arguments["image_size"]
    return {
        "architectures": [
            "DeiTForImageClassificationWithTeacher" if distilled else "ViTForImageClassification"
        ],
        "model_type": "deit" if distilled else "vit",
        "hidden_size": arguments["dim"],
        "num_hidden_layers": arguments["depth"],
        "num_attention_heads": arguments["num_heads"],
        "intermediate_size": int(arguments["dim"] * arguments["mlp_ratio"]),
        "hidden_act": _ACTIVATIONS[arguments["activation"]],
        "hidden_dropout_prob": arguments["dropout"],
        "attention_probs_dropout_prob": arguments.get("attention_dropout", 0.0),
        "layer_norm_eps": arguments["norm_eps"],
        "image_size": list(size) if isinstance(size, tuple | list) else size,
        "patch_size": arguments["patch_size"],
        "num_channels": arguments["in_channels"],
        "qkv_bias": arguments["qkv_bias"],
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
    }


def describe_input(contract: InputContract) -> dict[str, Any] | None:
    """Return preprocessor_config.json; None where no processor there prepares pictures so.

    Their shorter-side resize aims at one number, so it serves square pictures only.
    """
    if contract.resize == "shorter" and contract.height != contract.width:
        return None
    cuts = contract.crop_fraction < 1
    height, width = (math.floor(side / contract.crop_fraction) for side in (contract.height, contract.width))
    size = {"shortest_edge": height} if contract.resize == "shorter" else {"height": height, "width": width}
    document: dict[str, Any] = {
        "image_processor_type": _PROCESSORS[contract.resize, cuts],
        "do_resize": True,
        "size": size,
        "resample": _RESAMPLE[contract.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(contract.mean),
        "image_std": list(contract.std),
        "do_convert_rgb": True,
    }
    if cuts or contract.resize == "shorter":
        document |= {
            "do_center_crop": True,
            "crop_size": {"height": contract.height, "width": contract.width},
        }
    return document


def refuse_unknown(architecture: str, arguments: Mapping[str, Any]) -> None:
    """Raise UsageError for a model that transformers' ViT and DeiT do not compute."""
    if architecture not in ("vit", "deit"):
        raise UsageError(f"transformers' format has no {architecture} here; it has vit and deit")
    refuse_unlike_deit(arguments, "transformers' ViT")


def refuse_unlike_deit(arguments: Mapping[str, Any], whose: str) -> None:
    """Raise UsageError naming the first argument of `vit` that is not as in the plain class-token ViT."""
    plain = {
        "position": "learned",
        "class_token": True,
        "class_position": True,
        "pool": "class",
        "pre_logits": False,
        "layer_scale": None,
        "patch_norm": False,
    }
    for key, value in plain.items():
        if arguments.get(key, value) != value:
            raise UsageError(f"{whose} has {key} {_word(value)} only, this model has {_word(arguments[key])}")


def _word(value: Any) -> str:
    return {None: "none", True: "true", False: "false"}.get(value, str(value))
