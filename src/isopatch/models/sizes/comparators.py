"""Sizes of the models that are compared with and taught by: not isotropic. Imports no torch."""

from __future__ import annotations

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


ENTRIES = (
    _cifar_resnet(20, 269_722, 40_551_040, 91.73),
    _cifar_resnet(32, 464_154, 68_862_592, 92.63),
    _cifar_resnet(44, 658_586, 97_174_144, 93.10),
    _cifar_resnet(56, 853_018, 125_485_696, 93.39),
)

ALIASES: dict[str, str] = {}
