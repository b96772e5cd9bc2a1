"""Published sizes of the hybrid ViT. Imports no torch."""

from __future__ import annotations

from isopatch.image.contract import HALF, InputContract
from isopatch.models.entry import ModelEntry, accuracies
from isopatch.models.sizes.transformers import TRANSFORMER_SIZES

STAGES: dict[str, list[int]] = {
    "r_s16_p8": [],
    "r26_s32": [2, 2, 2, 2],
    "r50_s16": [3, 4, 9],
    "r50_s32": [3, 4, 6, 3],
}

_TIMM = "timm results-imagenet.csv, {weights}"


def _hybrid(size: str, stages: str, image: int, parameters: int, macs: int, **weights: float) -> ModelEntry:
    name = f"vit_{size}_{stages}_{image}"
    dim, depth, heads = TRANSFORMER_SIZES[size]
    return ModelEntry(
        name=name,
        architecture="hybrid",
        arguments={
            "dim": dim,
            "depth": depth,
            "num_heads": heads,
            "layers": STAGES[stages],
            "patch_size": 8 if stages == "r_s16_p8" else 1,
            "image_size": image,
            "num_classes": 1000,
        },
        input=InputContract(
            height=image, width=image, crop_fraction=0.9 if image == 224 else 1.0, mean=HALF, std=HALF
        ),
        parameters=parameters,
        macs=macs,
        accuracy=accuracies(_TIMM, name, weights),
        source="Dosovitskiy et al. 2020 (arXiv 2010.11929), section 3.1; Steiner et al. 2021 (AugReg)",
    )


ENTRIES = (
    _hybrid("tiny", "r_s16_p8", 224, 6_337_704, 433_681_920),
    _hybrid("tiny", "r_s16_p8", 384, 6_355_944, 1_326_858_240),
    _hybrid("small", "r26_s32", 384, 36_468_392, 10_263_625_728),
    _hybrid("large", "r50_s32", 384, 329_092_136, 57_136_144_384),
    _hybrid("small", "r26_s32", 224, 36_431_912, 3_463_851_008, augreg_in21k_ft_in1k=81.856),
    _hybrid("base", "r26_s32", 224, 101_383_976, 6_710_859_776),
    _hybrid("base", "r50_s16", 224, 98_659_112, 21_535_358_976),
    _hybrid("base", "r50_s16", 384, 98_950_952, 67_155_787_776, orig_in21k_ft_in1k=84.988),
    _hybrid("large", "r50_s32", 224, 328_994_856, 19_413_295_104, augreg_in21k_ft_in1k=84.434),
)

ALIASES: dict[str, str] = {}
