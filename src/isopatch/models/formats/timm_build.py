"""timm's own model for one of ours: by its name, or by its class in a size that timm has no name for."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from isopatch.errors import UsageError
from isopatch.models.formats import timm_config
from isopatch.models.spec import ModelSpec


def import_timm() -> Any:
    """Import timm, which takes seconds, without its warnings."""
    with warnings.catch_warnings():  # timm 1.0 warns about its own names while it is imported
        warnings.simplefilter("ignore")
        import timm
        import timm.models
    return timm


def timm_model(spec: ModelSpec) -> nn.Module:
    """Build timm's own model for a spec, with fresh weights.

    Raises UsageError, naming the first thing that timm lacks.
    """
    timm = import_timm()
    count = spec.arguments["num_classes"]
    try:
        name, model_args = timm_config.builder(spec)
    except UsageError:
        return _timm_class(spec)
    built: nn.Module = timm.create_model(name, num_classes=count, **model_args)
    return built


def _timm_class(spec: ModelSpec) -> nn.Module:
    from timm.layers.create_act import get_act_layer
    from timm.layers.mlp import GatedMlp
    from timm.models.convmixer import ConvMixer
    from timm.models.mlp_mixer import Affine, MlpMixer, ResBlock, SpatialGatingBlock
    from timm.models.vision_transformer_relpos import VisionTransformerRelPos

    arguments = spec.arguments
    relative = arguments.get("position") == "relative"
    given = timm_config.options(
        spec.architecture, {**arguments, "position": "none"} if relative else arguments
    )
    given |= {"num_classes": arguments["num_classes"], "act_layer": get_act_layer(given["act_layer"])}
    built: nn.Module
    if spec.architecture == "convmixer":
        built = ConvMixer(**given)
    elif relative:
        for key in ("pos_embed", "no_embed_class"):
            del given[key]
        built = VisionTransformerRelPos(rel_pos_type="bias", **{"init_values": None, **given})
    else:
        layers: dict[str, Any] = {
            "mlp_mixer": {},
            "resmlp": {"block_layer": ResBlock, "norm_layer": Affine},
            "gmlp": {"block_layer": SpatialGatingBlock, "mlp_layer": GatedMlp},
        }[spec.architecture]
        built = MlpMixer(**given, **layers)
    return built
