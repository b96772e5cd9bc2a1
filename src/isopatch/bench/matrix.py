"""The machine's measured matrix rate: what a plain product of two large matrices reaches."""

from __future__ import annotations

import torch

from isopatch.bench.modules import finish
from isopatch.bench.setting import Task
from isopatch.bench.turns import Entrant
from isopatch.kernels.twin import Precision

SIDE = {"cpu": 1536, "cuda": 8192}


def matrix_entrant(precision: Precision, threads: int, device: str, side: int | None = None) -> Entrant:
    """Return PyTorch's own product of two square matrices, to take its turn among the contenders.

    Its work is counted in operations, a multiply-add as two.
    """
    side = side or SIDE[device]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(side, side, generator=generator).to(device, dtype) for _ in range(2))
    task = Task("infer", 1, device)

    def call() -> None:
        left @ right
        finish(task)

    return Entrant(call, 2.0 * side**3, threads)
