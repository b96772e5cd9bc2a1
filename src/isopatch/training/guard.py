"""Stop before a bad number reaches the weights, and say where it came from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from isopatch.errors import IsopatchError

Names = Callable[[], list[str]]  # sample names, worked out only when something is wrong

LOWEST_SCALE = 2.0**-10  # fp16: the scaler starts at 2**16 and halves at every overflow; 26 in a row end here

HIGHEST_LR = 1e3  # no recipe in the literature is within a factor of 10 of it


class NonFinite(IsopatchError):
    """A loss, gradient, weight or buffer is NaN or infinite; nothing was updated."""


def check_lr(lr: float, step: int, samples: Names = list) -> None:
    """Refuse a learning rate that is not a number, negative or absurd."""
    if not math.isfinite(lr) or not 0 <= lr <= HIGHEST_LR:
        raise NonFinite(
            f"step {step}: learning rate {lr:g} is outside 0..{HIGHEST_LR:g}; nothing was updated"
            f"{_shown(samples)}; check optimizer.lr and the schedule, and start again "
            f"(--weights takes the last checkpoint)"
        )


def check_loss(loss: Tensor, step: int, model: nn.Module, images: Tensor, samples: Names) -> None:
    """Raise NonFinite when the loss is, naming the first cause that can be seen."""
    if not bool(torch.isfinite(loss)):
        raise NonFinite(_message("loss", float(loss.detach()), step, _cause(model, images, samples), samples))


def check_teacher(logits: Tensor, step: int, images: Tensor, samples: Names) -> None:
    """Raise NonFinite when a teacher's answer is, and say whether the pictures are to blame."""
    if bool(torch.isfinite(logits).all()):
        return
    cause = _bad_pixels(images, samples) or "the pictures are finite: check the teacher with isopatch eval"
    raise NonFinite(
        f"step {step}: the teacher's logits are not finite: {cause}; nothing was updated, the last "
        f"checkpoint is finite{_shown(samples)}"
    )


def check_gradients(norm: Tensor, step: int, model: nn.Module, samples: Names) -> None:
    """Raise NonFinite when the global gradient norm is, naming the first bad gradient."""
    if bool(torch.isfinite(norm)):
        return
    bad = first_bad((name, p.grad) for name, p in model.named_parameters() if p.grad is not None)
    cause = f"the gradient of {bad} is not finite" if bad else "the norm overflowed"
    raise NonFinite(_message("gradient norm", float(norm.detach()), step, cause, samples))


def check_state(model: nn.Module, step: int, samples: Names = list) -> None:
    """Raise NonFinite when a weight or a buffer (BatchNorm statistics) holds NaN or infinity."""
    tensors = [t for t in model.state_dict().values() if t.is_floating_point()]
    if not bool(torch.isfinite(nn.utils.get_total_norm(tensors, norm_type=math.inf))):
        bad = first_bad(model.state_dict().items()) or "a tensor"
        raise NonFinite(_message("model state", math.nan, step, f"{bad} is not finite", samples))


def check_scale(scale: float, step: int, model: nn.Module, samples: Names) -> None:
    """Raise NonFinite when fp16 gradients overflow however far the scaler lowers its scale."""
    if scale < LOWEST_SCALE:
        bad = first_bad((name, p.grad) for name, p in model.named_parameters() if p.grad is not None)
        cause = f"every fp16 step overflows (scale {scale:g}, gradient of {bad})"
        raise NonFinite(_message("gradient norm", math.inf, step, cause, samples))


def first_bad(named: Iterable[tuple[str, Tensor | None]]) -> str | None:
    """Name of the first tensor that holds a value that is not finite."""
    for name, tensor in named:
        if tensor is not None and tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name
    return None


def _cause(model: nn.Module, images: Tensor, samples: Names) -> str:
    pixels = _bad_pixels(images, samples)
    if pixels is not None:
        return pixels
    bad = first_bad(model.state_dict().items())
    return f"{bad} is not finite" if bad else "weights and pixels are finite: the loss diverged"


def _bad_pixels(images: Tensor, samples: Names) -> str | None:
    """Which pictures have pixels that are not finite, in words; None where there are none."""
    finite = torch.isfinite(images).flatten(1).all(dim=1)
    if bool(finite.all()):
        return None
    names = samples()
    culprits = [names[int(i)] for i in torch.nonzero(~finite).flatten()[:3]]
    return f"pixels of {', '.join(culprits)} are not finite"


def _message(what: str, value: float, step: int, cause: str, samples: Names) -> str:
    return (
        f"step {step}: {what} is {value}: {cause}; nothing was updated, the last checkpoint is finite"
        f"{_shown(samples)}; start again with a lower optimizer.lr, with optimizer.clip_norm "
        f"or without these pictures (--weights takes the last checkpoint)"
    )


def _shown(samples: Names) -> str:
    names = samples()
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return f"; samples: {', '.join(names[:4])}{more}" if names else ""
