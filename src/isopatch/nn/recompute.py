"""Activation checkpointing of one block, for every model that has blocks."""

from __future__ import annotations

import contextlib
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from isopatch.nn.norms import frozen_statistics


def recomputed(block: nn.Module, *inputs: Any) -> Tensor:
    """Run a block without keeping its activations: the backward pass computes them again.

    Drop path and dropout draw the same numbers the second time; BatchNorm counts the batch once.
    """
    result: Tensor = checkpoint(
        block,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=True,
        context_fn=lambda: (contextlib.nullcontext(), frozen_statistics(block)),
    )
    return result
