"""The first things that tell two state dicts apart, in the field's words: width, depth, patch, classes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

State = Mapping[str, Tensor]


def first_differences(own: State, other: State, *, name: str) -> list[str]:
    """Return lines such as "width 384 in the file, 192 in NAME"; empty where only details differ.

    own: the model's tensors, other: the file's, both in our names.
    """
    found = []
    for what, read in _SIZES.items():
        mine, theirs = read(own), read(other)
        if mine is not None and theirs is not None and mine != theirs:
            found.append(f"{what} {theirs} in the file, {mine} in {name}")
    return found


def _axis(key: str, axis: int) -> Callable[[State], int | None]:
    def read(state: State) -> int | None:
        tensor = state.get(key)
        return int(tensor.shape[axis]) if tensor is not None and tensor.dim() > max(axis, 0) else None

    return read


def _depth(state: State) -> int | None:
    numbers = [int(found[1]) for key in state if (found := re.match(r"blocks\.(\d+)\.", key))]
    return max(numbers) + 1 if numbers else None


def _mlp(state: State) -> int | None:
    for key in ("blocks.0.channel.mixer.fc1.weight", "blocks.0.mixer.fc1.weight"):
        if key in state and state[key].dim() == 2:
            return int(state[key].shape[0])
    return None


_SIZES: dict[str, Callable[[State], int | None]] = {
    "width": _axis("stem.proj.weight", 0),
    "depth": _depth,
    "patch size": _axis("stem.proj.weight", -1),
    "kernel size": _axis("blocks.0.depthwise.weight", -1),
    "hidden width of the MLP": _mlp,
    "entries of the position table": _axis("position.table", 1),
    "classes": _axis("heads.cls.linear.weight", 0),
}
