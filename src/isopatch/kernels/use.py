"""The kernels of a model that is about to be trained or asked: what `--kernels` and `--precision` mean."""

from __future__ import annotations

from typing import cast

from torch import nn

from isopatch.errors import UsageError
from isopatch.kernels.memory import keep_freed_memory
from isopatch.kernels.swap import KERNELS, Kernels, Swapped, swap
from isopatch.kernels.twin import Precision

PRECISIONS = ("fp32", "bf16", "fp16")


def use(
    model: nn.Module, *, kernels: str, precision: str, recompute: bool = False, gradients: bool = False
) -> Swapped:
    """Swap modules as `swap` does, in the precision the rest of the model runs in.

    The model is on its device already. precision: "fp32", "bf16" or "fp16", of the autocast around the model.
    With native kernels the process keeps freed memory (`keep_freed_memory`).
    gradients: whether some will be wanted.
    recompute: activations are recomputed in the backward pass, which the plain blocks do.
    Raises UsageError when kernels asked for by name cannot run here, or not in this precision or with
    recomputation, saying why. A model in which nothing has a twin is plain with any.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision {precision!r}: choose fp32, bf16 or fp16")
    if kernels == "plain":
        return swap(model, kernels="plain")
    if kernels in KERNELS and recompute:
        why = "activation_checkpointing recomputes the plain blocks"
        if kernels != "auto":
            raise UsageError(f"kernels {kernels}: {why}; use --kernels plain")
        return Swapped("plain", "fp32", note=why)
    swapped = swap(
        model, kernels=cast(Kernels, kernels), precision=cast(Precision, precision), gradients=gradients
    )
    if swapped.kernels == "native":
        keep_freed_memory()
    return swapped
