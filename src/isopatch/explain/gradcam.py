"""Grad-CAM on the grid, for any model whose blocks leave a feature map.

A = features (C channels) at some depth, y = the class's logit: weights of the channels = mean over places of
dy/dA, map = (sum over channels of weight * A)+ (Selvaraju et al. 2017, equations 1 and 2).

Which depth: the last whose patch tokens the logit depends on. With a mean over patches that is what leaves
the last block; a class token is read alone, so there it is what enters the last block (beyond it the
gradient by every patch token is zero, and a map made of it would be blank).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from isopatch.explain.attention import prefix_of
from isopatch.explain.depths import blocks_of
from isopatch.explain.heat import Heat, Options
from isopatch.nn.classifier import Classifier
from isopatch.nn.layout import Grid, as_map


def grad_cam_maps(model: Classifier, x: Tensor, targets: Tensor, options: Options) -> list[Heat]:
    """Grad-CAM of the target class."""
    features, gradient, _ = last_features(model, x, targets)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return [Heat("target class", (weights * features).sum(1).clamp(min=0).cpu())]


def last_features(model: Classifier, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return (features, gradient of the logit by them), both (B, C, rows, cols), and their depth.

    Depth d is what enters block d, counted from 0; the number of blocks is what leaves the last.
    """
    depths = _features_in_graph(model, x)
    tensors = [tensor for tensor, _ in depths.maps]
    with torch.enable_grad():
        gradients = torch.autograd.grad(
            depths.logits(targets).sum(), tensors, allow_unused=True, materialize_grads=True
        )
    prefix = len(prefix_of(model))
    for depth in reversed(range(len(tensors))):
        grid = depths.maps[depth][1]
        gradient = _as_map(gradients[depth], grid, prefix)
        if gradient.abs().amax() > 0 or depth == 0:
            return _as_map(tensors[depth].detach(), grid, prefix), gradient, depth
    raise AssertionError("a model without blocks")


class _Depths:
    """What entered each block and left the last one, still in the graph of the logits."""

    def __init__(self, model: Classifier, x: Tensor) -> None:
        self.maps: list[tuple[Tensor, Grid | None]] = []
        blocks = blocks_of(model)
        handles = [block.register_forward_pre_hook(self._entered) for block in blocks]
        handles.append(blocks[-1].register_forward_hook(self._left))
        try:
            with torch.enable_grad():
                self._all: Tensor = model(x.detach().requires_grad_())
        finally:
            for handle in handles:
                handle.remove()

    def logits(self, targets: Tensor) -> Tensor:
        """The targets' logits (B,)."""
        return self._all.gather(1, targets[:, None]).squeeze(1)

    def _entered(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.maps.append((inputs[0], inputs[1] if len(inputs) > 1 else None))

    def _left(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.maps.append((output, inputs[1] if len(inputs) > 1 else None))


def _features_in_graph(model: Classifier, x: Tensor) -> _Depths:
    return _Depths(model, x)


def _as_map(features: Tensor, grid: Grid | None, prefix: int) -> Tensor:
    """Tokens (B, P + N, C) as a map of the patches; comparators hand maps from block to block already."""
    return features if grid is None else as_map(features[:, prefix:].contiguous(), grid)


def without_feature_map(model: Classifier) -> str | None:
    """Say that the blocks of a model are not known; None where they are."""
    return None if blocks_of(model) else "is another library's, whose blocks are not known here"
