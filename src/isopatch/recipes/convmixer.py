"""Recipes `convmixer` and `convmixer-cifar`: Trockman and Kolter 2022, arXiv 2201.09792.

convmixer: ImageNet-1k from scratch, 150 epochs (768/32: 300)
    source    locuslab/convmixer README.md ("exactly the settings we used"), its fork's train.py
    command   isopatch train --recipe convmixer --model convmixer_1536_20 --data IMAGENET
    expected  1536/20 81.37, 768/32 80.16, 1024/20 (kernel 9, patch 14) 76.94; crop 0.96
    hardware  10 RTX 8000, 64 pictures each
    hours     1536/20 about 216, 768/32 about 192 (authors, issue 12)

convmixer-cifar: CIFAR-10 from scratch, 25 epochs
    source    locuslab/convmixer-cifar10 train.py with its README's flags
    command   isopatch train --recipe convmixer-cifar --model convmixer_256_8_ks5_p2 --data cifar10
    expected  92.60 % after 25 epochs; over 94 % with
              --epochs 100 --augment.color_jitter 0.2 --augment.erasing 0.2
    hardware  one 2080 Ti
    hours     0.3 (42.6 s an epoch)

What to know:
- The schedule is piecewise linear, set before every step: 0, lr at 2/5 of the epochs, lr/20 at 4/5, 0.
- AdamW's eps 1e-3 is part of the ImageNet recipe: with 1e-8 and lr 0.01 it is another optimiser.
- `accumulate` splits the batch of 640 as their 10 GPUs did: mixing and BatchNorm see 64 pictures.
- weight decay 2e-5 is their fork's default; its colour jitter 0.4 is without effect beside RandAugment.
- The CIFAR script decays every parameter (`optimizer.decay all`) and uses torchvision's RandAugment, which
  has other operations than timm's and applies each of them always.
- Both used fp16 autocast; `precision auto` is bfloat16 where that is fast, else float32.
"""

from __future__ import annotations

from isopatch.recipes.fit import IMAGENET_MEAN, IMAGENET_STD, Notes, arguments_of
from isopatch.training.config import (
    AugmentConfig,
    DataConfig,
    InputConfig,
    MixConfig,
    ModelNode,
    ObjectiveConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
)

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2471, 0.2435, 0.2616)


def convmixer(model: ModelNode, source: str, notes: Notes) -> RunConfig:
    """ConvMixer on ImageNet: 150 epochs of AdamW with eps 1e-3 and a piecewise-linear rate."""
    arguments = arguments_of(model)
    long = (arguments.get("dim"), arguments.get("depth")) == (768, 32)
    return RunConfig(
        recipe="convmixer",
        model=model,
        data=DataConfig(source=source),
        input=InputConfig(
            resize="shorter",
            interpolation="bicubic",
            crop_fraction=0.96,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        ),
        augment=AugmentConfig(
            crop="random-resized",
            scale=(0.08, 1.0),
            ratio=(3 / 4, 4 / 3),
            interpolation="random",
            flip=0.5,
            rand_augment="rand-m9-mstd0.5-inc1",
            erasing=0.25,
            erasing_mode="pixel",
        ),
        mix=MixConfig(mixup=0.5, cutmix=0.5, probability=1.0, switch_probability=0.5),
        objective=ObjectiveConfig(loss="cross-entropy", label_smoothing=0.1),
        optimizer=OptimizerConfig(name="adamw", lr=0.01, eps=1e-3, weight_decay=2e-5, clip_norm=1.0),
        schedule=ScheduleConfig(kind="piecewise-linear", unit="step"),
        batch_size=640,
        accumulate=10,
        epochs=300 if long else 150,
        seed=42,
    )


def convmixer_cifar(model: ModelNode, source: str, notes: Notes) -> RunConfig:
    """ConvMixer on CIFAR-10: 25 epochs, the authors' short script."""
    return RunConfig(
        recipe="convmixer-cifar",
        model=model,
        data=DataConfig(source=source),
        input=InputConfig(crop_fraction=1.0, mean=CIFAR_MEAN, std=CIFAR_STD),
        augment=AugmentConfig(
            crop="random-resized",
            scale=(1.0, 1.0),
            ratio=(1.0, 1.0),
            interpolation="bilinear",
            flip=0.5,
            torchvision_ops=2,
            torchvision_magnitude=12,
            color_jitter=0.0,
            erasing=0.0,
            erasing_mode="zero",
        ),
        objective=ObjectiveConfig(loss="cross-entropy", label_smoothing=0.0),
        optimizer=OptimizerConfig(name="adamw", lr=0.05, eps=1e-8, weight_decay=0.005, decay="all"),
        schedule=ScheduleConfig(kind="piecewise-linear", unit="step"),
        batch_size=512,
        epochs=25,
    )
