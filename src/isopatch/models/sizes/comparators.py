"""Sizes of the models that are compared with and taught by: not isotropic. Imports no torch."""

from __future__ import annotations

from typing import Any

from isopatch.image.contract import InputContract
from isopatch.models.entry import Accuracy, ModelEntry

_AKAMASTER = "CIFAR-10 test; akamaster/pytorch_resnet_cifar10, selected there"


def _cifar_resnet(depth: int, parameters: int, macs: int, top1: float) -> ModelEntry:
    return ModelEntry(
        name=f"cifar_resnet{depth}",
        architecture="cifar_resnet",
        arguments={"depth": depth, "image_size": 32, "num_classes": 10},
        # The published weights were trained with ImageNet's mean and deviation.
        input=InputContract(height=32, width=32, crop_fraction=1.0),
        parameters=parameters,
        macs=macs,
        accuracy=(Accuracy(top1, _AKAMASTER),),
        source="He et al. 2015 (arXiv 1512.03385), section 4.2 and table 6, shortcut option A",
    )


CYCLE_DIMS = [64, 128, 320, 512]
CYCLE_SIZES: dict[str, tuple[list[int], list[int], list[int]]] = {  # dims, depths, mlp_ratios
    "b1": (CYCLE_DIMS, [2, 2, 4, 2], [4, 4, 4, 4]),
    "b2": (CYCLE_DIMS, [2, 3, 10, 3], [4, 4, 4, 4]),
    "b3": (CYCLE_DIMS, [3, 4, 18, 3], [8, 8, 4, 4]),
    "b4": (CYCLE_DIMS, [3, 8, 27, 3], [8, 8, 4, 4]),
    "b5": ([96, 192, 384, 768], [3, 4, 24, 3], [4, 4, 4, 4]),
}


def _cycle_mlp(size: str, parameters: int, macs: int, top1: float) -> ModelEntry:
    dims, depths, mlp_ratios = CYCLE_SIZES[size]
    return ModelEntry(
        name=f"cycle_mlp_{size}",
        architecture="cycle_mlp",
        arguments={
            "dims": dims,
            "depths": depths,
            "mlp_ratios": mlp_ratios,
            "image_size": 224,
            "num_classes": 1000,
        },
        # The authors' evaluation resizes the shorter side to 256 (datasets.py).
        input=InputContract(height=224, width=224, crop_fraction=0.875),
        parameters=parameters,
        macs=macs,
        accuracy=(Accuracy(top1, "ShoufaChen/CycleMLP README (secondary; its weights were not run here)"),),
        source="Chen et al. 2021 (arXiv 2107.10224); sizes as in the authors' code",
    )


VIP_SIZES: dict[str, dict[str, Any]] = {
    "s7": {
        "dims": [192, 384, 384, 384],
        "depths": [4, 3, 8, 3],
        "segment_dims": [32, 16, 16, 16],
        "transitions": [True, False, False],
    },
    "m7": {
        "dims": [256, 256, 512, 512],
        "depths": [4, 3, 14, 3],
        "segment_dims": [32, 32, 16, 16],
        "transitions": [False, True, False],
    },
    "l7": {
        "dims": [256, 512, 512, 512],
        "depths": [8, 8, 16, 4],
        "segment_dims": [32, 16, 16, 16],
        "transitions": [True, False, False],
    },
}


def _vip(size: str, crop: float, parameters: int, macs: int, top1: float) -> ModelEntry:
    return ModelEntry(
        name=f"vip_{size}",
        architecture="vision_permutator",
        arguments={
            **VIP_SIZES[size],
            "mlp_ratios": [3, 3, 3, 3],
            "patch_size": 7,
            "image_size": 224,
            "num_classes": 1000,
        },
        # crop_pct of the authors' models/vip.py
        input=InputContract(height=224, width=224, crop_fraction=crop),
        parameters=parameters,
        macs=macs,
        accuracy=(Accuracy(top1, "houqb/VisionPermutator README (its weights were not run here)"),),
        source="Hou et al. 2021 (arXiv 2106.12368); sizes as in the authors' code",
    )


ENTRIES = (
    _cifar_resnet(20, 269_722, 40_551_040, 91.73),
    _cifar_resnet(32, 464_154, 68_862_592, 92.63),
    _cifar_resnet(44, 658_586, 97_174_144, 93.10),
    _cifar_resnet(56, 853_018, 125_485_696, 93.39),
    _cycle_mlp("b1", 15_155_400, 2_121_523_200, 78.9),
    _cycle_mlp("b2", 26_802_504, 3_875_766_272, 81.6),
    _cycle_mlp("b3", 38_385_720, 6_830_968_832, 82.4),
    _cycle_mlp("b4", 51_796_552, 10_027_163_648, 83.0),
    _cycle_mlp("b5", 75_747_280, 12_232_436_736, 83.2),
    _vip("s7", 0.875, 25_114_984, 6_901_767_168, 81.5),
    _vip("m7", 0.9, 55_272_488, 16_284_307_456, 82.7),
    _vip("l7", 0.9, 87_784_936, 24_340_320_256, 83.2),
)

ALIASES: dict[str, str] = {}
