"""Published sizes of MLP-Mixer, ResMLP and gMLP, and plain names for those without. Imports no torch."""

from __future__ import annotations

from typing import Any

from isopatch.image.contract import HALF, InputContract
from isopatch.models.entry import ModelEntry, accuracies

MIXER_SIZES = {"s": (512, 8), "b": (768, 12), "l": (1024, 24), "h": (1280, 32)}  # (dim, depth), table 1
GMLP_SIZES = {"ti": (128, 30), "s": (256, 30), "b": (512, 30)}

_TIMM = "timm results-imagenet.csv, {weights}"


def _shape(dim: int, depth: int, patch: int) -> dict[str, Any]:
    return {"dim": dim, "depth": depth, "patch_size": patch, "image_size": 224, "num_classes": 1000}


def _mixer(size: str, patch: int, parameters: int, macs: int, **weights: float) -> ModelEntry:
    name = f"mixer_{size}{patch}_224"
    return ModelEntry(
        name=name,
        architecture="mlp_mixer",
        arguments=_shape(*MIXER_SIZES[size], patch),
        input=InputContract(height=224, width=224, crop_fraction=0.875, mean=HALF, std=HALF),
        parameters=parameters,
        macs=macs,
        accuracy=accuracies(_TIMM, name, weights),
        source="Tolstikhin et al. 2021 (arXiv 2105.01601), table 1",
    )


def _resmlp(
    name: str, shape: tuple[int, int, int], parameters: int, macs: int, **weights: float
) -> ModelEntry:
    return ModelEntry(
        name=name,
        architecture="resmlp",
        arguments=_shape(*shape),
        # timm's crop; the authors' README evaluates at 0.9.
        input=InputContract(height=224, width=224, crop_fraction=0.875),
        parameters=parameters,
        macs=macs,
        accuracy=accuracies(_TIMM, name, weights),
        source="Touvron et al. 2021 (arXiv 2105.03404), tables 1 and 3",
    )


def _gmlp(size: str, parameters: int, macs: int, **weights: float) -> ModelEntry:
    name = f"gmlp_{size}16_224"
    return ModelEntry(
        name=name,
        architecture="gmlp",
        arguments=_shape(*GMLP_SIZES[size], 16),
        input=InputContract(height=224, width=224, crop_fraction=0.875, mean=HALF, std=HALF),
        parameters=parameters,
        macs=macs,
        accuracy=accuracies(_TIMM, name, weights),
        source="Liu et al. 2021 (arXiv 2105.08050), table 1",
    )


ENTRIES = (
    _mixer("s", 32, 19_104_624, 1_002_426_368),
    _mixer("s", 16, 18_528_264, 3_776_958_464),
    _mixer("b", 32, 60_293_428, 3_237_722_112),
    _mixer("b", 16, 59_880_472, 12_601_767_936, goog_in21k_ft_in1k=76.616, miil_in21k_ft_in1k=82.314),
    _mixer("l", 32, 206_939_264, 11_253_293_056),
    _mixer("l", 16, 208_196_168, 44_547_678_208, goog_in21k_ft_in1k=72.084),
    _mixer("h", 14, 432_350_952, 120_989_911_040),
    _resmlp(
        "resmlp_12_224",
        (384, 12, 16),
        15_350_872,
        3_009_739_776,
        fb_in1k=76.66,
        fb_distilled_in1k=77.948,
    ),
    _resmlp("resmlp_12_patch14_224", (384, 12, 14), 15_607_912, 3_984_055_296),
    _resmlp("resmlp_12_patch8_224", (384, 12, 8), 22_051_624, 13_988_649_984),
    _resmlp(
        "resmlp_24_224", (384, 24, 16), 30_020_680, 5_961_292_800, fb_in1k=79.38, fb_distilled_in1k=80.766
    ),
    _resmlp(
        "resmlp_36_224", (384, 36, 16), 44_690_488, 8_912_845_824, fb_in1k=79.772, fb_distilled_in1k=81.15
    ),
    _resmlp(
        "resmlp_big_24_224",
        (768, 24, 8),
        129_138_280,
        100_230_739_968,
        fb_in1k=81.034,
        fb_distilled_in1k=83.594,
        fb_in22k_ft_in1k=84.414,
    ),
    _resmlp("resmlp_big_24_patch16_224", (768, 24, 16), 115_736_776, 23_020_713_984),
    _gmlp("ti", 5_867_328, 1_328_989_184),
    _gmlp("s", 19_422_656, 4_392_060_928, ra3_in1k=79.652),
    _gmlp("b", 73_075_392, 15_720_452_096),
    # Every size is an argument; the contract gets its size from image_size.
    *(
        ModelEntry(
            name=name,
            architecture=name,
            arguments={},
            input=InputContract(height=224, width=224, crop_fraction=0.9),
            source="sizes given as arguments",
        )
        for name in ("mlp_mixer", "resmlp", "gmlp", "metaformer", "mobilenet_v3")
    ),
)

ALIASES = {
    "mixer_small": "mixer_s16_224",
    "mixer_base": "mixer_b16_224",
    "mixer_large": "mixer_l16_224",
    "resmlp_s12": "resmlp_12_224",
    "resmlp_s24": "resmlp_24_224",
    "resmlp_s36": "resmlp_36_224",
    "resmlp_b24": "resmlp_big_24_224",
    "gmlp_tiny": "gmlp_ti16_224",
    "gmlp_small": "gmlp_s16_224",
    "gmlp_base": "gmlp_b16_224",
}
