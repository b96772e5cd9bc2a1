"""Strict comparison of a state dict with a model, told in one readable line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from isopatch.errors import IsopatchError

SHOWN = 3
COUNTER = ".num_batches_tracked"


def load_strict(model: nn.Module, state: Mapping[str, Tensor], *, where: str, name: str) -> None:
    """Copy `state` into `model`; every tensor must be there, in the right shape, and finite.

    BatchNorm's counters of batches, which files from before PyTorch 0.4.1 do not have, start at 0.
    Raises IsopatchError with the first tensors of other shapes, missing and unexpected. Values are converted
    to the model's own dtype.
    """
    own = model.state_dict()
    refuse_non_finite(state, where=where)
    require_common(model, state, where=where, name=name)
    shared = own.keys() & state.keys()
    reshaped = [key for key in own if key in shared and own[key].shape != state[key].shape]
    counters = [
        key
        for key in own
        if key not in state and key.endswith(COUNTER) and key.removesuffix(COUNTER) + ".running_mean" in state
    ]
    missing = [key for key in own if key not in state and key not in counters]
    unexpected = [key for key in state if key not in own]
    if reshaped or missing or unexpected:
        parts = []
        if reshaped:
            shapes = [f"{key} is {_size(state[key])}, not {_size(own[key])}" for key in reshaped]
            parts.append(f"{len(reshaped)} of another shape ({_shown(shapes)})")
        if missing:
            parts.append(f"{len(missing)} missing ({_shown(missing)})")
        if unexpected:
            parts.append(f"{len(unexpected)} unexpected ({_shown(unexpected)})")
        raise IsopatchError(
            f"{where}: does not fit {name}: of {len(own)} tensors {len(shared) - len(reshaped)} match, "
            f"{'; '.join(parts)}: give the name and arguments of the model it was saved from"
        )
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(torch.zeros_like(tensor) if key in counters else state[key])


def require_common(model: nn.Module, state: Mapping[str, Tensor], *, where: str, name: str) -> None:
    """Raise IsopatchError when not one tensor of the file belongs to the model."""
    own = model.state_dict()
    if not own.keys() & state.keys():
        raise IsopatchError(
            f"{where}: none of its {len(state)} tensors belongs to {name} (the file has "
            f"{_shown(list(state))}; the model has {_shown(list(own))}): give the name of the model it was "
            f"saved from"
        )


def refuse_non_finite(state: Mapping[str, Tensor], *, where: str) -> None:
    """Raise IsopatchError naming the first tensor with a NaN or an infinity."""
    for key, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise IsopatchError(f"{where}: {key} holds values that are not finite; use another checkpoint")


def _shown(lines: Sequence[str]) -> str:
    return ", ".join(lines[:SHOWN]) + (", ..." if len(lines) > SHOWN else "")


def _size(tensor: Tensor) -> str:
    return "x".join(str(side) for side in tensor.shape) or "one number"
