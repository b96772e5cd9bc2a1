"""Frozen features of pictures: what the classifier reads, one vector a picture."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from isopatch.data.loader import eval_batches
from isopatch.data.source import ImageSource
from isopatch.errors import IsopatchError
from isopatch.image.contract import InputContract
from isopatch.image.names import printable
from isopatch.nn.classifier import Classifier
from isopatch.training.evaluate import autocast, evaluation_mode

Values = NDArray[np.float32]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Features:
    """Features of some pictures of a split.

    values: (M, C) float32. indices: (M,) ascending, which pictures of the split they are.
    """

    values: Values
    indices: Indices

    def take(self, wanted: Indices) -> Values:
        """Return (W, C) of the pictures `wanted`, counted in the whole split; all of them must be here."""
        places = np.searchsorted(self.indices, wanted)
        assert np.array_equal(self.indices[np.minimum(places, len(self.indices) - 1)], wanted)
        return self.values[places]


def features_of(
    model: Classifier,
    source: ImageSource,
    contract: InputContract,
    indices: Indices,
    *,
    batch_size: int,
    workers: int = 0,
    device: str = "cpu",
    precision: str = "fp32",
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Return what `model`'s head reads, for the pictures `indices` (ascending) of `source`.

    Pooled and, where the model has one, behind its final norm. A model with two heads (DeiT-distilled) has
    two such vectors, of which the mean is taken, as timm does. Pictures are prepared as for `isopatch eval`.
    progress: called after each batch with the pictures done and the pictures in all.
    Raises IsopatchError naming the picture whose features are not finite.
    """
    parts: list[Values] = []
    done = 0
    batches = eval_batches(source, contract, batch_size=batch_size, workers=workers, indices=indices)
    with evaluation_mode(model), contextlib.closing(batches) as stream:
        for batch in stream:
            with torch.no_grad(), autocast(device, precision):
                pooled = model.pooled(batch.images.to(device, non_blocking=True))
            part = pooled.float().mean(dim=1).cpu().numpy()
            broken = np.flatnonzero(~np.isfinite(part).all(axis=1))
            if len(broken):
                name = printable(source.name(int(batch.indices[int(broken[0])])))
                raise IsopatchError(
                    f"{name}: the model's features are not finite; its weights are damaged or the precision "
                    f"overflows, try fp32"
                )
            parts.append(part)
            done += len(part)
            if progress is not None:
                progress(done, len(indices))
    return Features(np.concatenate(parts), indices)


def weights_digest(model: Classifier) -> str:
    """Return a hex digest (BLAKE2b) of every parameter and buffer with its name, type and shape."""
    total = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
