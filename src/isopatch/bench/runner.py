"""One contender, built and ready to be called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from isopatch.bench.setting import Setting


@dataclass(frozen=True)
class Runner:
    """What is timed.

    call: run once; on a GPU it returns when the GPU is done. images: pictures in one call.
    logits: pictures (B, C, H, W) on the CPU -> (B, K) fp32 on the CPU, through what `call` runs; None in
    training. gradients: of the step that `call` does, under our names, nothing updated; None in inference.
    note: what a reader has to know, such as which graph was taken.
    """

    setting: Setting
    call: Callable[[], None]
    images: int
    logits: Callable[[Tensor], Tensor] | None = None
    gradients: Callable[[], Mapping[str, Tensor]] | None = None
    note: str | None = None


def in_batches(forward: Callable[[Tensor], Tensor], pictures: Tensor, batch: int) -> Tensor:
    """Run pictures through what takes exactly `batch` of them; too few are repeated. Logits in fp32, CPU."""
    rows = []
    for part in torch.split(pictures, batch):
        full = part.repeat(-(-batch // len(part)), 1, 1, 1)[:batch]
        rows.append(forward(full)[: len(part)].float().cpu())
    return torch.cat(rows)
