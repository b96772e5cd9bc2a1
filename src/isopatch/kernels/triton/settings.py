"""What `Intact` leaves out and the kernels rely on: modules' numbers, and where their tensors lie."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import nn

_LOOKED_AT: dict[type[nn.Module], tuple[str, ...]] = {
    nn.BatchNorm2d: ("momentum", "track_running_stats"),
    nn.ZeroPad2d: ("padding",),
}


class Settings:
    """Remembers these of a tree of modules; says whether they are the same, and on the same device.

    It is neither copied nor pickled: a copy knows nothing yet.
    """

    def __init__(self) -> None:
        """Know nothing."""
        self._seen: tuple[Any, ...] | None = None

    def remember(self, root: nn.Module, device: torch.device) -> None:
        """From now on compare with what is below `root` now."""
        modules = list(root.modules())
        numbers = [(each.__dict__, name) for each in modules for name in _LOOKED_AT.get(type(each), ())]
        tensors: list[dict[str, Any]] = [
            held for each in modules for held in (each._parameters, each._buffers)
        ]
        self._seen = device, numbers, _values(numbers), tensors, _places(tensors)

    def __call__(self, device: torch.device) -> bool:
        """Whether all is as remembered."""
        if self._seen is None:
            return False
        known, numbers, values, tensors, places = self._seen
        return bool(device == known and _values(numbers) == values and _places(tensors) == places)

    def __reduce__(self) -> tuple[type[Settings], tuple[()]]:
        """A copy knows nothing yet."""
        return Settings, ()


def _values(numbers: list[tuple[dict[str, Any], str]]) -> list[Any]:
    return [held.get(name) for held, name in numbers]


def _places(tensors: list[dict[str, Any]]) -> list[tuple[int, bool] | None]:
    every = chain.from_iterable(map(dict.values, tensors))
    return [None if each is None else (each.get_device(), each.is_contiguous()) for each in every]
