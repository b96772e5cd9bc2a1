"""Recipes `mixer` and `resmlp`, of two models that mix tokens by an MLP; they train any model of the table.

mixer: MLP-Mixer on ImageNet-1k from scratch, 300 epochs (Tolstikhin et al. 2021, arXiv 2105.01601)
    source    google-research/big_vision configs/mlp_mixer_i1k.py
    command   isopatch train --recipe mixer --model MODEL --data IMAGENET
    expected  Mixer-B/16 76.3 (70.5 after 60 epochs)
    hardware  TPUv3-128
    hours     2.2

resmlp: ResMLP on ImageNet-1k from scratch, 400 epochs (Touvron et al. 2021, arXiv 2105.03404)
    source    the paper's section on training: DeiT's recipe with LAMB; README_resmlp.md for evaluation
    command   isopatch train --recipe resmlp --model MODEL --data IMAGENET
    expected  ResMLP-S12 76.6, S24 79.4, B24/8 81.0 (crop 0.9)
    hardware  not published
    hours     not published

What to know:
- mixer: AdamW's decay 0.1 is their 1e-4 / peak rate, and the sigmoid cross entropy from a head bias of -6.9
  differs from theirs (see `vit` for both). The rate falls linearly to 1e-5. Their stochastic depth does not
  divide by the keep probability; ours does.
- resmlp: the same drop path in every block; LAMB clips the gradient norm at 1.0 as NVIDIA's FusedLAMB does.
"""

from __future__ import annotations

from isopatch.recipes.deit import AUGMENT, EMA, MIX, SMOOTHED
from isopatch.recipes.fit import IMAGENET_MEAN, IMAGENET_STD, Notes, with_arguments
from isopatch.recipes.vit import EVAL_224, google_rand_augment, inception_crop
from isopatch.training.config import (
    DataConfig,
    InputConfig,
    MixConfig,
    ModelNode,
    ObjectiveConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
)


def mixer(model: ModelNode, source: str, notes: Notes) -> RunConfig:
    """MLP-Mixer on ImageNet: 300 epochs of AdamW with a linear decay."""
    return RunConfig(
        recipe="mixer",
        model=with_arguments(model, "mixer", notes, {"drop_path": 0.1, "head_bias": -6.9}),
        data=DataConfig(source=source),
        input=EVAL_224,
        augment=inception_crop(google_rand_augment(15)),
        mix=MixConfig(mixup=0.5),
        objective=ObjectiveConfig(loss="binary-cross-entropy"),
        optimizer=OptimizerConfig(name="adamw", lr=1e-3, weight_decay=0.1, clip_norm=1.0),
        schedule=ScheduleConfig(kind="linear", unit="step", warmup_steps=10_000, min_lr=1e-5),
        batch_size=4096,
        accumulate=32,
        epochs=300,
    )


def resmlp(model: ModelNode, source: str, notes: Notes) -> RunConfig:
    """ResMLP on ImageNet: DeiT's recipe with LAMB, 400 epochs."""
    wanted = {"drop_path": 0.1, "drop_path_schedule": "constant"}
    return RunConfig(
        recipe="resmlp",
        model=with_arguments(model, "resmlp", notes, wanted),
        data=DataConfig(source=source),
        input=InputConfig(
            resize="shorter", interpolation="bicubic", crop_fraction=0.9, mean=IMAGENET_MEAN, std=IMAGENET_STD
        ),
        augment=AUGMENT,
        mix=MIX,
        objective=SMOOTHED,
        optimizer=OptimizerConfig(name="lamb", lr=5e-3, eps=1e-8, weight_decay=0.2, clip_norm=1.0),
        schedule=ScheduleConfig(kind="cosine", unit="epoch", warmup_epochs=5, warmup_lr=1e-6, min_lr=1e-5),
        ema=EMA,
        batch_size=1024,
        accumulate=16,
        epochs=400,
    )
