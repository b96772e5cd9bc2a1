"""Published sizes of ConvMixer. Imports no torch."""

from __future__ import annotations

from isopatch.image.contract import InputContract
from isopatch.models.entry import Accuracy, ModelEntry

# Per channel over CIFAR-10's 50,000 training pictures, accumulated in float64.
CIFAR_MEAN = (0.49140, 0.48216, 0.44653)
CIFAR_STD = (0.24703, 0.24349, 0.26159)


def _convmixer(
    shape: tuple[int, int, int, int],
    parameters: int,
    macs: int,
    *accuracy: Accuracy,
    name: str | None = None,
    activation: str = "gelu",
    cifar: bool = False,
) -> ModelEntry:
    dim, depth, kernel, patch = shape
    side = 32 if cifar else 224
    return ModelEntry(
        name=name or f"convmixer_{dim}_{depth}_ks{kernel}_p{patch}",
        architecture="convmixer",
        arguments={
            "dim": dim,
            "depth": depth,
            "kernel_size": kernel,
            "patch_size": patch,
            "image_size": side,
            "num_classes": 10 if cifar else 1000,
            "activation": activation,
        },
        # The authors' --crop-pct 0.96; CIFAR pictures are taken as they are.
        input=InputContract(height=32, width=32, crop_fraction=1.0, mean=CIFAR_MEAN, std=CIFAR_STD)
        if cifar
        else InputContract(height=224, width=224, crop_fraction=0.96),
        parameters=parameters,
        macs=macs,
        accuracy=accuracy,
        source="Trockman and Kolter 2022 (arXiv 2201.09792), " + ("CIFAR-10" if cifar else "tables 1 and 2"),
    )


_PAPER = "paper, table 1 (authors' README)"
_QUOTED = "paper's appendix, quoted by a secondary source"
_CIFAR10 = "CIFAR-10 test; "

ENTRIES = (
    _convmixer((512, 12, 8, 7), 4_165_608, 3_701_460_992),
    _convmixer((512, 16, 8, 7), 5_357_544, 4_909_420_544, Accuracy(73.76, _QUOTED)),
    _convmixer((1024, 12, 8, 7), 14_621_672, 13_845_372_928, Accuracy(77.8, _QUOTED)),
    _convmixer((1024, 16, 9, 7), 19_381_224, 18_693_988_352),
    # ReLU here as in the other 768/32; no released weights confirm it. The counts do not depend on it.
    _convmixer((768, 32, 3, 14), 20_465_896, 5_004_834_816, activation="relu"),
    _convmixer(
        (768, 32, 7, 7),
        21_110_248,
        20_676_851_712,
        Accuracy(80.16, _PAPER),
        name="convmixer_768_32",
        activation="relu",
    ),
    _convmixer((1024, 20, 9, 14), 24_383_464, 5_948_547_072, Accuracy(76.94, "authors' weights, timm")),
    _convmixer((1536, 20, 3, 7), 49_414_120, 48_834_244_608, Accuracy(80.43, _QUOTED)),
    _convmixer(
        (1536, 20, 9, 7), 51_625_960, 51_099_168_768, Accuracy(81.37, _PAPER), name="convmixer_1536_20"
    ),
    _convmixer((1536, 20, 9, 14), 52_303_336, 12_949_352_448, Accuracy(78.92, _QUOTED)),
    _convmixer((1536, 24, 9, 14), 62_275_048, 15_492_673_536),
    _convmixer(
        (256, 8, 9, 1), 706_570, 707_529_216, Accuracy(96.03, _CIFAR10 + "paper, table 4"), cifar=True
    ),
    _convmixer(
        (256, 8, 5, 2),
        594_186,
        148_113_920,
        Accuracy(92.60, _CIFAR10 + "authors' script, 25 epochs"),
        cifar=True,
    ),
    _convmixer((128, 4, 8, 1), 103_434, 101_057_792, Accuracy(91.26, _CIFAR10 + _QUOTED), cifar=True),
    _convmixer(
        (256, 16, 8, 1),
        1_339_402,
        1_342_966_272,
        Accuracy(96.3, _CIFAR10 + "kentaroy47/vision-transformers-cifar10"),
        cifar=True,
    ),
    # Every size is an argument; the contract gets its size from image_size.
    ModelEntry(
        name="convmixer",
        architecture="convmixer",
        arguments={},
        input=InputContract(height=224, width=224, crop_fraction=0.96),
        source="sizes given as arguments",
    ),
)

ALIASES = {
    "convmixer_768_32_ks7_p7": "convmixer_768_32",
    "convmixer_1536_20_ks9_p7": "convmixer_1536_20",
    "convmixer_1024_20": "convmixer_1024_20_ks9_p14",
    "convmixer_cifar": "convmixer_256_8_ks5_p2",
    "convmixer_cifar_96": "convmixer_256_8_ks9_p1",
    "convmixer_cifar_tiny": "convmixer_128_4_ks8_p1",
}
