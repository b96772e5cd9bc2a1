"""The bench's settings that equal each published architecture, and their names. Imports no torch.

A study starts from one of them and changes one field. What a preset leaves out is size: dim, depth,
patch_size, image_size, num_heads (attention), kernel_size (ConvMixer, pooling), num_classes, dropout rates.
"""

from __future__ import annotations

from typing import Any

from isopatch.errors import UsageError, nearest
from isopatch.image.contract import InputContract
from isopatch.models.entry import ModelEntry

# The plainest: two pre-norm residual steps, an activation inside the MLPs, the mean of the tokens.
_MIXER: dict[str, Any] = {
    "stem": "patch",
    "stem_activation": False,
    "stem_norm": False,
    "token_mixer": "token-mlp",
    "token_ratio": 0.5,
    "channel_mixer": "mlp",
    "mlp_ratio": 4.0,
    "norm": "layer",
    "norm_place": "before",
    "final_norm": True,
    "residual": "each",
    "layer_scale": None,
    "activation": "gelu",
    "activation_place": "mlp",
    "position": "none",
    "class_token": False,
    "class_position": True,
    "distillation_token": False,
    "pool": "norm-mean",
    "stage_depths": None,
    "stage_dims": None,
    "drop_path_schedule": "linear",
    "init": "flax",
}
_DEIT = {
    **_MIXER,
    "token_mixer": "attention",
    "position": "learned",
    "class_token": True,
    "pool": "class",
    "init": "deit",
}
_METAFORMER = {**_MIXER, "init": "deit"}

BENCH_PRESETS: dict[str, dict[str, Any]] = {
    "vit": {**_DEIT, "init": "timm"},
    "deit": _DEIT,
    "deit_distilled": {**_DEIT, "distillation_token": True},
    # The authors' layer scale.
    "deit3": {**_DEIT, "layer_scale": 1e-4, "class_position": False, "drop_path_schedule": "constant"},
    "convmixer": {
        **_MIXER,
        "stem_activation": True,
        "stem_norm": True,
        "token_mixer": "depthwise",
        "channel_mixer": "pointwise",
        "norm": "batch",
        "norm_place": "after-activation",
        "final_norm": False,
        "residual": "token",
        "activation_place": "both",
        "init": "pytorch",
    },
    "mlp_mixer": _MIXER,
    # Layer scale up to depth 18; deeper and wider models start at 1e-5 and 1e-6 (`resmlp.py`).
    "resmlp": {
        **_MIXER,
        "token_mixer": "token-linear",
        "norm": "affine",
        "layer_scale": 0.1,
        "drop_path_schedule": "constant",
        "init": "deit",
    },
    "gmlp": {**_MIXER, "token_mixer": "gate", "mlp_ratio": 6.0, "residual": "block", "init": "gmlp"},
    "metaformer_pool": {**_METAFORMER, "token_mixer": "pool"},
    "metaformer_identity": {**_METAFORMER, "token_mixer": "identity"},
    "metaformer_random": {**_METAFORMER, "token_mixer": "random"},
}


def bench_preset(name: str) -> dict[str, Any]:
    """Return a copy of the settings that equal an architecture; an unknown name raises UsageError."""
    if name not in BENCH_PRESETS:
        known = ", ".join(BENCH_PRESETS)
        raise UsageError(f"unknown bench preset '{name}'{nearest(name, BENCH_PRESETS)}; there are {known}")
    return dict(BENCH_PRESETS[name])


def _entry(name: str, settings: dict[str, Any], source: str) -> ModelEntry:
    # One contract for all: pictures are not what a study of architectures varies.
    return ModelEntry(
        name=name,
        architecture="bench",
        arguments=settings,
        input=InputContract(height=224, width=224, crop_fraction=0.9),
        source=source,
    )


# Every size is an argument. `bench_<preset>` is `bench` with the preset's settings.
ENTRIES = (
    _entry("bench", {}, "sizes and settings given as arguments"),
    *(
        _entry(f"bench_{name}", settings, f"sizes given as arguments, settings equal to {name}")
        for name, settings in BENCH_PRESETS.items()
    ),
)

ALIASES: dict[str, str] = {}
