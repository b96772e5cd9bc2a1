"""Logits of chosen pictures of a split, each seen once, with whatever was done to it on the way."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from isopatch.data.loader import eval_batches
from isopatch.data.source import ImageSource
from isopatch.image.contract import InputContract
from isopatch.image.names import printable
from isopatch.nn.classifier import Classifier
from isopatch.training.evaluate import evaluation_mode, forward_heads
from isopatch.training.metrics import check_finite

Change = Callable[[Tensor, Sequence[int]], Tensor]


def logits_of(
    model: Classifier,
    source: ImageSource,
    contract: InputContract,
    *,
    indices: NDArray[np.int64] | None = None,
    change: Change | None = None,
    batch_size: int = 256,
    workers: int = 0,
    device: str = "cpu",
    precision: str = "fp32",
) -> NDArray[np.float32]:
    """Return (N, K) logits of `model(x)` for the pictures `indices` (all when None) of `source`, in order.

    change: what to do to a prepared batch (B, C, H, W) of pictures with these indices before the model.
    Raises IsopatchError naming the picture for which the output is not finite.
    """
    parts: list[NDArray[np.float32]] = []
    batches = eval_batches(source, contract, batch_size=batch_size, workers=workers, indices=indices)
    with evaluation_mode(model), contextlib.closing(batches) as stream:
        for batch in stream:
            members = batch.indices.tolist()
            images = batch.images if change is None else change(batch.images, members)
            logits = forward_heads(model, images, device=device, precision=precision)[None]

            def name(row: int, members: list[int] = members) -> str:
                return printable(source.name(members[row]))

            check_finite(logits.astype(np.float64), name)
            parts.append(logits)
    return np.concatenate(parts)
