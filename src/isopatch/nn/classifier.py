"""What training, evaluation, prediction and loading ask of a model, isotropic or not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor, nn

from isopatch.errors import UsageError
from isopatch.nn.layout import Grid


class Features(NamedTuple):
    """What a model sees before its heads, or at some depth.

    tokens: (B, P + N, C), prefix first. grid: (rows, cols) of the patch tokens. map: the patch tokens as
    (B, C, rows, cols), a view.
    """

    tokens: Tensor
    grid: Grid
    map: Tensor


class Encoded(NamedTuple):
    """Features, and one of them per head after pooling: (B, H, C)."""

    features: Features
    pooled: Tensor


class Classifier(nn.Module, ABC):
    """A model with named heads: pictures (B, C_in, H, W) -> logits (B, K) per head.

    heads: name -> features (B, C) to logits (B, K). spec: what a checkpoint stores about the model
    (isopatch.models sets it). activation_checkpointing: recompute blocks in the backward pass.
    """

    heads: nn.ModuleDict

    def __init__(self) -> None:
        """Subclasses register their parts, the heads last: state dicts read from stem to heads."""
        super().__init__()
        self.spec: Any = None
        self.activation_checkpointing = False

    @abstractmethod
    def encode(self, x: Tensor) -> Encoded:
        """Return what leaves the last block (and a final norm that precedes pooling), and what is pooled."""

    @abstractmethod
    def features_by_depth(self, x: Tensor) -> Iterator[Features]:
        """Yield what leaves the stem (depth 0, positions added) and each block (1, 2, ...), without the norm.

        A depth that nobody asks for is not computed.
        """

    def pooled(self, x: Tensor) -> Tensor:
        """Return one feature per head, (B, H, C)."""
        return self.encode(x).pooled

    def final_features(self, x: Tensor) -> Features:
        """Return what leaves the last block and, where it precedes pooling, the final norm."""
        return self.encode(x).features

    def features(self, x: Tensor, depth: int | None = None) -> Features:
        """Return tokens, grid and feature map of pictures (B, C_in, H, W).

        depth: after how many blocks, without the final norm; 0 is the stem. None: what the heads' pool reads,
        after all blocks and, where it precedes pooling, the final norm. Raises UsageError for a depth that
        the model does not have.
        """
        if depth is None:
            return self.final_features(x)
        if not isinstance(depth, int):
            raise UsageError(f"depth {depth}: give one number; features_by_depth yields every depth")
        if depth < 0:
            raise UsageError(f"depth {depth}: 0 is the stem, 1 the first block; leave it out for the end")
        found = next(islice(self.features_by_depth(x), depth, None), None)
        if found is None:
            raise UsageError(f"depth {depth}: the model has fewer blocks")
        return found

    def head_logits(self, pooled: Tensor) -> dict[str, Tensor]:
        """Return every head's logits (B, K) from one feature per head (B, H, C)."""
        return {name: head(pooled[:, index]) for index, (name, head) in enumerate(self.heads.items())}

    @overload
    def forward(self, x: Tensor, heads: Literal[False] = False) -> Tensor: ...

    @overload
    def forward(self, x: Tensor, heads: Literal[True]) -> dict[str, Tensor]: ...

    def forward(self, x: Tensor, heads: bool = False) -> Tensor | dict[str, Tensor]:
        """Classify pictures (B, C_in, H, W): logits (B, K), in training mode too.

        heads: return every head's logits by name instead; otherwise several heads' logits are averaged.
        Raises UsageError (a ValueError) for a picture size that the parts cannot take.
        """
        logits = self.head_logits(self.pooled(x))
        if heads:
            return logits
        every = list(logits.values())
        return every[0] if len(every) == 1 else torch.stack(every).mean(dim=0)
