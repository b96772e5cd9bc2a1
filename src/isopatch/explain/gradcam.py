"""Grad-CAM on the grid, for any model whose blocks leave a feature map.

A = features (C channels) at some depth, y = the class's logit: weights of the channels = mean over places of
dy/dA, map = (sum over channels of weight * A)+ (Selvaraju et al. 2017, equations 1 and 2).

Which depth: the last whose patch tokens the logit depends on. With a mean over patches that is what leaves
the last block; a class token is read alone, so there it is what enters the last block (beyond it the
gradient by every patch token is zero, and a map made of it would be blank). Of another library's model, whose
blocks are not known, it is what its pooling reads, and a class token read alone leaves nothing to draw.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from isopatch.errors import UsageError
from isopatch.explain.attention import prefix_of
from isopatch.explain.depths import blocks_of
from isopatch.explain.heat import Heat, Options
from isopatch.models.external.wrapper import External
from isopatch.nn.classifier import Classifier
from isopatch.nn.layout import Grid, as_map


def grad_cam_maps(model: Classifier, x: Tensor, targets: Tensor, options: Options) -> list[Heat]:
    """Grad-CAM of the target class."""
    features, gradient, _ = last_features(model, x, targets)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    return [Heat("target class", (weights * features).sum(1).clamp(min=0).cpu())]


def last_features(model: Classifier, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return (features, gradient of the logit by them), both (B, C, rows, cols), and their depth.

    Depth d is what enters block d, counted from 0; the number of blocks is what leaves the last. Another
    library's model, of which none are known, has depth 0.
    """
    if isinstance(model, External):
        return *_of_another_library(model, x, targets), 0
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


def _of_another_library(model: External, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        held = model.in_graph(x.detach().requires_grad_())
        logits = model.head_logits(held.pooled)["cls"].gather(1, targets[:, None])
        (gradient,) = torch.autograd.grad(
            logits.sum(), [held.tensor], allow_unused=True, materialize_grads=True
        )
    return held.as_map(held.tensor.detach()), held.as_map(gradient)


def without_feature_map(model: Classifier) -> str | None:
    """Say that a model has no feature map on which its logits depend; None where it has.

    Another library's model is asked by one pass of a random picture.
    """
    return _without_map(model) if isinstance(model, External) else None


def _without_map(model: External) -> str | None:
    contract, own = model.spec.input, next(model.parameters())
    generator = torch.Generator().manual_seed(0)
    size = model.size or (contract.height, contract.width)
    x = torch.randn(2, model.spec.arguments.get("in_channels", 3), *size, generator=generator).to(own)
    try:
        with torch.enable_grad():
            held = model.in_graph(x.requires_grad_())
            # Against random numbers: sums over what a norm returns do not depend on its input.
            against = torch.randn(held.pooled.shape, generator=generator).to(own)
            (gradient,) = torch.autograd.grad(
                (held.pooled * against).sum(), [held.tensor], allow_unused=True, materialize_grads=True
            )
        gradient = held.as_map(gradient)
        with torch.no_grad():
            whole = model.pooled(x)
    except UsageError as error:
        return f"is another library's, and no feature map of it is known ({error})"
    if not torch.allclose(whole, held.pooled, rtol=1e-3, atol=1e-4):
        return "is another library's, and does not classify by its last feature map alone"
    if not gradient.any():
        return (
            "is another library's and reads its class token alone after the last block; what enters that "
            "block is not known here"
        )
    return None
