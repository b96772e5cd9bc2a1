"""One optimiser step: forward, backward, guards, update."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from isopatch.data.loader import TrainBatch
from isopatch.data.mixing import mix, smooth_targets
from isopatch.data.seeding import derive_seed
from isopatch.training import guard
from isopatch.training.objectives import distillation_loss, feature_distillation, labels_loss
from isopatch.training.projector import TaughtStudent
from isopatch.training.setup import Trainer
from isopatch.training.teaching import Teaching


@dataclass(frozen=True)
class StepResult:
    """What a step measured. loss: mean over the batch; grad_norm: global, before clipping."""

    loss: float
    grad_norm: float
    lr: float


def train_step(trainer: Trainer, batch: TrainBatch) -> StepResult:
    """Do optimiser step `batch.step` over `batch`, in `accumulate` micro-batches.

    The teacher, where there is one, sees the student's pictures: augmented, and mixed.

    Raises guard.NonFinite before the update when the loss, a gradient, a weight or a buffer is not finite.
    """
    config, model, optimizer = trainer.config, trainer.model, trainer.optimizer.optimizer

    def samples(indices: torch.Tensor = batch.indices) -> list[str]:
        return [f"{trainer.train.name(int(i))} (#{int(i)})" for i in indices]

    lr = trainer.schedule.lr(batch.step)
    guard.check_lr(lr, batch.step, samples)
    trainer.optimizer.set_lr(lr)
    model.train()
    optimizer.zero_grad(set_to_none=True)

    loss_sum = torch.zeros((), device=trainer.device)
    for micro, (images, labels) in enumerate(_micro_batches(batch, config.micro_batch_size)):
        torch.manual_seed(derive_seed(config.seed, "drop path", batch.step, micro))
        images, targets = _targets(trainer, images, labels, batch.view, micro)
        images = images.to(trainer.device, non_blocking=True)
        targets = targets.to(trainer.device, non_blocking=True)
        members = torch.split(batch.indices, config.micro_batch_size)[micro]
        if trainer.teaching is None:
            with trainer.autocast():
                heads = model(images, heads=True)
            loss = labels_loss(heads, targets, config.objective)
        else:
            named = functools.partial(samples, members)
            loss = _taught_loss(trainer, trainer.teaching, images, targets, batch, micro, named)
        guard.check_loss(loss, batch.step, model, images, functools.partial(samples, members))
        trainer.scaler.scale(loss / config.accumulate).backward()  # type: ignore[no-untyped-call]
        loss_sum += loss.detach()

    trainer.scaler.unscale_(optimizer)
    norm = _gradient_norm(trainer)
    clip = config.optimizer.clip_norm
    if trainer.scaler.is_enabled():  # fp16: the scaler skips an overflowing step and lowers its scale
        guard.check_scale(trainer.scaler.get_scale(), batch.step, model, samples)
    else:
        guard.check_gradients(norm, batch.step, model, samples)
    if clip is not None:  # after the check: clipping by NaN would make every gradient NaN and hide the first
        torch.nn.utils.clip_grads_with_norm_(trainer.optimizer.parameters, clip, norm)
    guard.check_state(model, batch.step, samples)
    trainer.scaler.step(optimizer)
    trainer.scaler.update()
    if trainer.ema is not None:
        trainer.ema.update(model)
    return StepResult(loss=float(loss_sum) / config.accumulate, grad_norm=float(norm), lr=lr)


def _taught_loss(
    trainer: Trainer,
    teaching: Teaching,
    images: torch.Tensor,
    targets: torch.Tensor,
    batch: TrainBatch,
    micro: int,
    samples: guard.Names,
) -> torch.Tensor:
    """The loss of one micro-batch against labels and teacher."""
    config = trainer.config
    if teaching.projector is None:
        with trainer.autocast():
            heads = trainer.model(images, heads=True)
        teacher = teaching.logits(images, view=batch.view, micro=micro)
        guard.check_teacher(teacher, batch.step, images, samples)
        return distillation_loss(heads, targets, teacher, config.objective, config.distill)
    with trainer.autocast():
        heads, projected = TaughtStudent(trainer.model, teaching.projector)(images)
    teacher, wanted = teaching.logits_and_map(images)
    guard.check_teacher(teacher, batch.step, images, samples)
    loss = distillation_loss(heads, targets, teacher, config.objective, config.distill)
    return loss + config.distill.feature_weight * feature_distillation(projected, wanted)


def _micro_batches(batch: TrainBatch, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(torch.split(batch.images, size), torch.split(batch.labels, size), strict=True))


def _targets(
    trainer: Trainer, images: torch.Tensor, labels: torch.Tensor, view: int, micro: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mixed images and probability targets of one micro-batch."""
    config = trainer.config
    num_classes = len(trainer.splits.classes)
    smoothing = config.objective.label_smoothing
    if not config.mix.active:
        return images, smooth_targets(labels, num_classes, smoothing)
    seed = derive_seed(config.order_seed, "mixing", view, micro)
    return mix(images, labels, num_classes, config.mix, label_smoothing=smoothing, seed=seed)


def _gradient_norm(trainer: Trainer) -> torch.Tensor:
    """Global L2 norm of the gradients."""
    return torch.nn.utils.get_total_norm([p.grad for p in trainer.optimizer.parameters if p.grad is not None])
