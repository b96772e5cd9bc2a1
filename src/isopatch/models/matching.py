"""Comparison of a state dict with a model, told in one readable line: strict, or partial where asked for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from isopatch.errors import IsopatchError
from isopatch.models.differences import first_differences

log = logging.getLogger("isopatch")

SHOWN = 3
COUNTER = ".num_batches_tracked"


def load_strict(model: nn.Module, state: Mapping[str, Tensor], *, where: str, name: str) -> None:
    """Copy `state` into `model`; every tensor must be there, in the right shape, and finite.

    BatchNorm's counters of batches, which files from before PyTorch 0.4.1 do not have, start at 0.
    Raises IsopatchError with the sizes that differ and the first tensors of other shapes, missing and
    unexpected. Values are converted to the model's own dtype.
    """
    own = model.state_dict()
    refuse_unusable(state, own, where=where)
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
        told = [*first_differences(own, state, name=name), *parts]
        raise IsopatchError(
            f"{where}: does not fit {name}: of {len(own)} tensors {len(shared) - len(reshaped)} match; "
            f"{'; '.join(told)}: give the name and arguments of the model it was saved from"
        )
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(torch.zeros_like(tensor) if key in counters else state[key])


def load_partial(model: nn.Module, state: Mapping[str, Tensor], *, where: str, name: str) -> list[str]:
    """Copy what fits by name and shape, keep the model's own values elsewhere; return the names copied.

    "loaded X of Y tensors" is logged, with the first of those left. Raises IsopatchError where X would be 0,
    and where a tensor of the file is not finite.
    """
    own = model.state_dict()
    refuse_unusable(state, own, where=where)
    require_common(model, state, where=where, name=name)
    fitting = [key for key, tensor in own.items() if key in state and state[key].shape == tensor.shape]
    told = "".join(f"; {line}" for line in first_differences(own, state, name=name))
    if not fitting:
        raise IsopatchError(f"{where}: loaded 0 of {len(own)} tensors of {name}, none has its shape{told}")
    with torch.no_grad():
        for key in fitting:
            own[key].copy_(state[key])
    kept = [key for key in own if key not in fitting]
    fresh = f"; fresh: {_shown(kept)}" if kept else ""
    log.warning("%s: loaded %d of %d tensors of %s%s%s", where, len(fitting), len(own), name, fresh, told)
    return fitting


def require_common(model: nn.Module, state: Mapping[str, Tensor], *, where: str, name: str) -> None:
    """Raise IsopatchError when not one tensor of the file belongs to the model."""
    own = model.state_dict()
    if not own.keys() & state.keys():
        raise IsopatchError(
            f"{where}: none of its {len(state)} tensors belongs to {name} (the file has "
            f"{_shown(list(state))}; the model has {_shown(list(own))}): give the name of the model it was "
            f"saved from"
        )


def refuse_unusable(state: Mapping[str, Tensor], own: Mapping[str, Tensor], *, where: str) -> None:
    """Raise IsopatchError naming the first tensor whose values cannot be the model's.

    Not a number, infinite, or so once converted to the model's dtype; quantised, complex, sparse, or integers
    where the model has fractions: their scale is not in them, and copying them would drop it.
    """
    for key, tensor in state.items():
        plain = tensor.layout == torch.strided and not (tensor.is_quantized or tensor.is_complex())
        fractions = key in own and own[key].is_floating_point()
        if not plain or tensor.is_meta or (fractions and not tensor.is_floating_point()):
            raise IsopatchError(
                f"{where}: {key} holds {str(tensor.dtype).removeprefix('torch.')} values that are no plain "
                f"floating-point numbers (quantised, packed or missing); ask for the weights in float32"
            )
        if tensor.is_floating_point():
            values = tensor.to(own[key].dtype if fractions else torch.float32)
            if not bool(torch.isfinite(values).all()):
                raise IsopatchError(
                    f"{where}: {key} holds values that are not finite; use another checkpoint"
                )


def _shown(lines: Sequence[str]) -> str:
    return ", ".join(lines[:SHOWN]) + (", ..." if len(lines) > SHOWN else "")


def _size(tensor: Tensor) -> str:
    return "x".join(str(side) for side in tensor.shape) or "one number"
