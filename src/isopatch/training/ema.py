"""Exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Ema:
    """A second copy of the model that follows it with `decay`.

    Floating-point parameters and buffers are averaged; integer buffers (BatchNorm's counters) are copied,
    because an average of counters is no counter. The first update copies, as in `torch.optim.swa_utils`.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards `model` by one step."""
        mine, theirs = self.model.state_dict(), model.state_dict()
        floating = [name for name, tensor in mine.items() if tensor.is_floating_point()]
        if self.updates == 0:
            for name, tensor in mine.items():
                tensor.copy_(theirs[name])
        else:
            self._average([mine[n] for n in floating], [theirs[n] for n in floating], self.updates)
            for name in mine.keys() - set(floating):
                mine[name].copy_(theirs[name])
        self.updates += 1

    def restore(self, tensors: dict[str, torch.Tensor], updates: int) -> None:
        """Restore a saved average in place."""
        restore_in_place(self.model, tensors)
        self.updates = updates


@torch.no_grad()
def restore_in_place(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Copy saved tensors into the model's own, whose strides (memory layout) survive."""
    own = model.state_dict()
    assert own.keys() == tensors.keys(), sorted(own.keys() ^ tensors.keys())[:5]
    for name, tensor in own.items():
        tensor.copy_(tensors[name])
