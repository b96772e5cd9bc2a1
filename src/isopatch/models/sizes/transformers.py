"""Published sizes of ViT, DeiT and DeiT III. Imports no torch."""

from __future__ import annotations

from typing import Any

from isopatch.image.contract import HALF, InputContract
from isopatch.models.entry import Accuracy, ModelEntry, accuracies

# (dim, depth, num_heads); ViT: Dosovitskiy et al. 2020, table 1; Ti and S: DeiT, table 1; M: DeiT III.
TRANSFORMER_SIZES = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "medium": (512, 12, 8),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}

_TIMM = "timm results-imagenet.csv, {weights}"
_DEIT = "DeiT's own evaluation, crop 0.875 (facebookresearch/deit)"
_DEIT3 = "timm results-imagenet.csv, {weights}; its crop is 0.9 at 224 for weights from 1k alone"


def _shape(size: str, patch: int, image: int, **more: Any) -> dict[str, Any]:
    dim, depth, heads = TRANSFORMER_SIZES[size]
    base = {"dim": dim, "depth": depth, "num_heads": heads, "patch_size": patch, "image_size": image}
    return {**base, "num_classes": 1000, **more}


def _vit(size: str, patch: int, image: int, parameters: int, macs: int, **weights: float) -> ModelEntry:
    name = f"vit_{size}_patch{patch}_{image}"
    return ModelEntry(
        name=name,
        architecture="vit",
        arguments=_shape(size, patch, image),
        # timm's evaluation: 0.9 at 224, the whole picture at 384. vit_jax squashes instead.
        input=InputContract(
            height=image, width=image, crop_fraction=0.9 if image == 224 else 1.0, mean=HALF, std=HALF
        ),
        parameters=parameters,
        macs=macs,
        accuracy=accuracies(_TIMM, name, weights),
        source="Dosovitskiy et al. 2020 (arXiv 2010.11929), table 1; Ti, S: Steiner et al. 2021",
    )


def _deit(size: str, image: int, parameters: int, macs: int, top1: float, *, distilled: bool) -> ModelEntry:
    return ModelEntry(
        name=f"deit_{size}_{'distilled_' if distilled else ''}patch16_{image}",
        architecture="deit",
        arguments=_shape(size, 16, image, distilled=distilled),
        # The authors' evaluation crop at every size; timm takes 0.9 at 224 and 1.0 at 384 (up to 0.2 points).
        input=InputContract(height=image, width=image, crop_fraction=0.875),
        parameters=parameters,
        macs=macs,
        accuracy=(Accuracy(top1, _DEIT),),
        source="Touvron et al. 2021 (arXiv 2012.12877), table 1",
    )


def _deit3(size: str, patch: int, image: int, parameters: int, macs: int, **weights: float) -> ModelEntry:
    name = f"deit3_{size}_patch{patch}_{image}"
    return ModelEntry(
        name=name,
        architecture="deit3",
        arguments=_shape(size, patch, image),
        # The authors evaluate with crop ratio 1.0.
        input=InputContract(height=image, width=image, crop_fraction=1.0),
        parameters=parameters,
        macs=macs,
        accuracy=accuracies(_DEIT3, name, weights),
        source="Touvron et al. 2022 (arXiv 2204.07118)",
    )


ENTRIES = (
    _vit("tiny", 16, 224, 5_717_416, 1_253_683_200, augreg_in21k_ft_in1k=75.452),
    _vit("tiny", 16, 384, 5_790_376, 4_682_219_520),
    _vit("small", 32, 224, 22_878_952, 1_142_909_952, augreg_in21k_ft_in1k=76.01),
    _vit("small", 32, 384, 22_915_432, 3_442_900_992),
    _vit("small", 16, 224, 22_050_664, 4_598_882_304, augreg_in21k_ft_in1k=81.402, augreg_in1k=78.842),
    _vit("small", 16, 384, 22_196_584, 15_490_351_104, augreg_in21k_ft_in1k=83.814, augreg_in1k=81.13),
    _vit("small", 8, 224, 22_055_272, 22_405_742_592),
    _vit("base", 32, 224, 88_224_232, 4_409_186_304, augreg_in21k_ft_in1k=80.732, augreg_in1k=74.908),
    _vit("base", 32, 384, 88_297_192, 13_043_564_544, augreg_in21k_ft_in1k=83.358, augreg_in1k=78.75),
    _vit("base", 16, 224, 86_567_656, 17_563_828_224, augreg_in21k_ft_in1k=84.534, orig_in21k_ft_in1k=81.782),
    _vit("base", 16, 384, 86_859_496, 55_484_350_464, augreg_in21k_ft_in1k=86.01, orig_in21k_ft_in1k=84.212),
    _vit("base", 8, 224, 86_576_872, 78_148_337_664, augreg_in21k_ft_in1k=85.838),
    _vit("large", 32, 224, 306_535_400, 15_377_539_072),
    _vit("large", 32, 384, 306_632_680, 45_275_963_392, orig_in21k_ft_in1k=81.508),
    _vit("large", 16, 224, 304_326_632, 61_554_712_576, augreg_in21k_ft_in1k=85.856),
    _vit("large", 16, 384, 304_715_752, 191_066_300_416, augreg_in21k_ft_in1k=87.096),
    _vit("large", 14, 224, 304_203_752, 81_013_006_336),
    _vit("huge", 14, 224, 632_045_800, 167_295_109_120),
    ModelEntry(
        name="vit_base_patch16_gap_224",
        architecture="vit",
        # 16 heads as timm writes it; vit_jax's GAP variant of B/16 has the same parameters and multiply-adds.
        arguments=_shape("base", 16, 224, class_token=False, pool="norm-mean") | {"num_heads": 16},
        input=InputContract(height=224, width=224, crop_fraction=0.9, mean=HALF, std=HALF),
        parameters=86_566_120,
        macs=17_471_649_792,
        source="google-research/vision_transformer models_test.py; timm",
    ),
    ModelEntry(
        name="simple_vit_small_patch16_224",
        architecture="vit",
        arguments=_shape(
            "small", 16, 224, class_token=False, pool="norm-mean", position="sincos-2d", init="jax"
        ),
        input=InputContract(height=224, width=224, crop_fraction=0.875, mean=HALF, std=HALF),
        parameters=21_974_632,
        macs=4_574_026_752,
        accuracy=(
            Accuracy(76.5, "big_vision, 90 epochs (paper: table 1)"),
            Accuracy(80.0, "paper, abstract, 300 epochs"),
        ),
        source="Beyer et al. 2022 (arXiv 2205.01580); google-research/big_vision configs/vit_s16_i1k.py",
    ),
    _deit("tiny", 224, 5_717_416, 1_253_683_200, 72.202, distilled=False),
    _deit("small", 224, 22_050_664, 4_598_882_304, 79.854, distilled=False),
    _deit("base", 224, 86_567_656, 17_563_828_224, 81.846, distilled=False),
    _deit("base", 384, 86_859_496, 55_484_350_464, 82.890, distilled=False),
    _deit("tiny", 224, 5_910_800, 1_261_003_776, 74.476, distilled=True),
    _deit("small", 224, 22_436_432, 4_624_140_288, 81.164, distilled=True),
    _deit("base", 224, 87_338_192, 17_656_811_520, 83.372, distilled=True),
    _deit("base", 384, 87_630_032, 55_591_342_080, 85.224, distilled=True),
    _deit3("small", 16, 224, 22_059_496, 4_598_882_304, fb_in1k=81.382, fb_in22k_ft_in1k=83.082),
    _deit3("small", 16, 384, 22_205_416, 15_490_351_104, fb_in1k=83.43),
    _deit3("medium", 16, 224, 38_849_512, 7_990_968_320, fb_in1k=83.09, fb_in22k_ft_in1k=84.55),
    _deit3("base", 16, 224, 86_585_320, 17_563_828_224, fb_in1k=83.80, fb_in22k_ft_in1k=85.728),
    _deit3("base", 16, 384, 86_877_160, 55_484_350_464, fb_in1k=85.088, fb_in22k_ft_in1k=86.742),
    _deit3("large", 16, 224, 304_374_760, 61_554_712_576, fb_in1k=84.772, fb_in22k_ft_in1k=86.99),
    _deit3("large", 16, 384, 304_763_880, 191_066_300_416, fb_in1k=85.82),
    _deit3("huge", 14, 224, 632_126_440, 167_295_109_120, fb_in1k=85.204, fb_in22k_ft_in1k=87.18),
    # Every size is an argument; the contract gets its size from image_size.
    ModelEntry(
        name="vit",
        architecture="vit",
        arguments={},
        input=InputContract(height=224, width=224, crop_fraction=0.9, mean=HALF, std=HALF),
        source="sizes given as arguments",
    ),
    ModelEntry(
        name="deit",
        architecture="deit",
        arguments={},
        input=InputContract(height=224, width=224, crop_fraction=0.875),
        source="sizes given as arguments",
    ),
)

ALIASES = {
    "vit_tiny": "vit_tiny_patch16_224",
    "vit_small": "vit_small_patch16_224",
    "vit_base": "vit_base_patch16_224",
    "vit_large": "vit_large_patch16_224",
    "vit_huge": "vit_huge_patch14_224",
    "simple_vit": "simple_vit_small_patch16_224",
    "deit_tiny": "deit_tiny_patch16_224",
    "deit_small": "deit_small_patch16_224",
    "deit_base": "deit_base_patch16_224",
    "deit_base_384": "deit_base_patch16_384",
    "deit_tiny_distilled": "deit_tiny_distilled_patch16_224",
    "deit_small_distilled": "deit_small_distilled_patch16_224",
    "deit_base_distilled": "deit_base_distilled_patch16_224",
    "deit_base_distilled_384": "deit_base_distilled_patch16_384",
    "deit3_small": "deit3_small_patch16_224",
    "deit3_medium": "deit3_medium_patch16_224",
    "deit3_base": "deit3_base_patch16_224",
    "deit3_large": "deit3_large_patch16_224",
    "deit3_huge": "deit3_huge_patch14_224",
}
