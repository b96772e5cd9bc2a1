"""Mixup and cutmix of a batch, with label smoothing folded into the targets; a function of the seed."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from isopatch.data.seeding import restored_generators, seeded
from isopatch.errors import UsageError

PAIR_BYTES = (
    1 << 18
)  # from this size of a picture on, the calls of a mixing by pairs cost less than memory does


class MixSettings(Protocol):
    """What mixing needs to know: the fields of `training.config.MixConfig`."""

    @property
    def mixup(self) -> float: ...
    @property
    def cutmix(self) -> float: ...
    @property
    def probability(self) -> float: ...
    @property
    def switch_probability(self) -> float: ...


def mix(
    images: Tensor, labels: Tensor, num_classes: int, mix: MixSettings, *, label_smoothing: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Mix a batch with itself in reverse order, as timm's Mixup in batch mode does.

    images: (B, 3, H, W) float, changed in place. labels: (B,) int64. One lambda, and for cutmix one box, per
    batch, drawn from `seed`; cutmix takes lambda from the box as it lies within the picture. Mixup: Zhang et
    al. 2018; cutmix: Yun et al. 2019.
    Returns the images and float32 targets (B, num_classes) that sum to 1: smoothed first, then mixed.
    Raises UsageError for an odd batch, whose middle picture would have no partner.
    """
    if len(images) % 2:
        raise UsageError(
            f"mixing pairs a batch with itself reversed and needs an even one, not {len(images)}; "
            "change batch_size, or set mix.mixup and mix.cutmix to 0"
        )
    if mix.probability == 0 or (mix.mixup == 0 and mix.cutmix == 0):
        return images, smooth_targets(labels, num_classes, label_smoothing)
    from timm.data.mixup import Mixup

    mixer = Mixup(  # type: ignore[no-untyped-call]
        mixup_alpha=mix.mixup,
        cutmix_alpha=mix.cutmix,
        prob=mix.probability,
        switch_prob=mix.switch_probability,
        mode="batch",
        label_smoothing=label_smoothing,
        num_classes=num_classes,
    )
    if images[0].nbytes < PAIR_BYTES:
        with seeded(seed):
            mixed, targets = mixer(images, labels)
        return mixed, targets
    # Pair by pair, with the same draws for each: otherwise timm makes a second, reversed batch in memory.
    count = len(images)
    targets = torch.empty(count, num_classes, device=labels.device)
    with restored_generators() as reseed:
        for first in range(count // 2):
            pair = slice(
                first, count - first, count - 1 - 2 * first
            )  # pictures `first` and, reversed, `first`
            reseed(seed)
            _, targets[pair] = mixer(images[pair], labels[pair])
    return images, targets


def smooth_targets(labels: Tensor, num_classes: int, label_smoothing: float) -> Tensor:
    """Return smoothed one-hot targets (B, num_classes) float32 for labels (B,).

    off = s / K and on = 1 - s + s / K (Szegedy et al. 2016, section 7): the values timm mixes.
    """
    off = label_smoothing / num_classes
    targets = torch.full((len(labels), num_classes), off, device=labels.device)
    return targets.scatter_(1, labels.view(-1, 1), 1.0 - label_smoothing + off)
