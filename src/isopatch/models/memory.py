"""Memory of one forward pass, traced on the meta device: exact sizes, no arithmetic, no allocation."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follow the storages that operations create, and the most that were alive at one time.

    ignored: storages that were there before; views of them cost nothing.
    """

    def __init__(self, ignored: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._ignored = ignored
        self._owners: dict[int, int] = {}  # storage -> tensors that still use it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._follow(tensor)
        self.peak = max(self.peak, self.live)
        return result

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._ignored:
            return
        if key not in self._owners:
            self._owners[key] = 0
            self.live += size
        self._owners[key] += 1
        weakref.finalize(tensor, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._owners[key] -= 1
        if self._owners[key] == 0:
            del self._owners[key]
            self.live -= size


def forward_bytes(model: nn.Module, x: Tensor) -> int:
    """Return the largest sum of intermediate tensors alive at one time in a forward pass without gradients.

    model, x: on the meta device. The picture and the weights are not counted. Attention is counted with its
    (N, N) scores, as the plain formula holds them; fused kernels need less.
    """
    live = _LiveBytes(_storages((x, *model.parameters(), *model.buffers())))
    with torch.no_grad(), live:
        model(x)
    return live.peak


def backward_bytes(model: nn.Module, x: Tensor) -> int:
    """Return what the forward pass of a training step keeps for the backward pass, weights not counted.

    model, x: on the meta device. The same remark on attention's scores holds.
    """
    weights = _storages((*model.parameters(), *model.buffers()))
    kept: dict[int, tuple[int, Any]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = (
                storage.nbytes(),
                storage,
            )  # held, so that no later storage takes its number
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(x)
    return sum(size for size, _ in kept.values())


def _storages(tensors: Iterable[Tensor]) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in tensors}
