"""Attention followed through all layers: rollout, and rollout weighted by gradients.

B pictures, h heads, P prefix tokens, N = P + patches tokens. A row of a product says from which tokens of the
first layer a token of the last one drew.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from isopatch.explain.attention import (
    attended_layers,
    attentions,
    prefix_of,
    projected,
    weights_of,
    without_attention,
)
from isopatch.explain.heat import Heat, Options, target_logits
from isopatch.nn.classifier import Classifier
from isopatch.nn.layout import Grid
from isopatch.nn.pool import TokenPool
from isopatch.nn.pyramid import Pyramid
from isopatch.nn.skeleton import Isotropic
from isopatch.nn.token_mixers import Attention

Fusion = Literal["mean", "max", "min"]


def rollout(
    layers: Iterable[Tensor],
    *,
    fusion: Fusion = "mean",
    identity: bool = True,
    discard: float = 0.0,
    prefix: int = 0,
) -> Tensor:
    """Return the product (B, N, N) of the layers' weights (B, h, N, N), first to last; its rows sum to one.

    fusion: of the heads. discard: share of every row's smallest patch columns that is set to zero; prefix
    columns are kept. identity: each layer is half attention, half the skip around it, 0.5 A + 0.5 I (Abnar
    and Zuidema 2020, section 3); without it the attention alone is multiplied, as Dosovitskiy et al. 2020
    (appendix D.8) describe it.
    """
    product: Tensor | None = None
    for weights in layers:
        step = fused(weights, fusion=fusion, discard=discard, prefix=prefix)
        if identity:
            step = 0.5 * step + 0.5 * torch.eye(step.shape[-1], device=step.device)
        product = step if product is None else step @ product
    assert product is not None, "no layers"
    return product


def fused(weights: Tensor, *, fusion: Fusion, discard: float, prefix: int) -> Tensor:
    """Return one matrix (B, N, N) of the heads' weights (B, h, N, N), its rows summing to one.

    Where no place has weight in every head, `min` leaves nothing of a row: it stays with itself.
    """
    joined: Tensor = getattr(weights, {"mean": "mean", "max": "amax", "min": "amin"}[fusion])(dim=1)
    drop = int(discard * (joined.shape[-1] - prefix))
    if drop:
        smallest = joined[:, :, prefix:].topk(drop, dim=-1, largest=False).indices + prefix
        joined = joined.scatter(-1, smallest, 0.0)
    total = joined.sum(-1, keepdim=True)
    own = torch.eye(joined.shape[-1], device=joined.device).expand_as(joined)
    return torch.where(total > 0, joined / total, own)


def read_rows(model: Classifier, matrix: Tensor, grid: Grid) -> list[Heat]:
    """Return the rows of matrix (B, N, N) from which the heads read, as maps over the patch tokens.

    A row for each prefix token that a head reads; the mean over the patches' rows where heads read their
    mean. Prefix columns are left out.
    """
    prefix = prefix_of(model)
    patches = matrix[:, :, len(prefix) :]
    pool = model.pool if isinstance(model, Isotropic) else None
    if isinstance(pool, TokenPool):
        rows = {f"{name} token": patches[:, index] for index, name in enumerate(prefix[: pool.num_outputs])}
    else:
        rows = {"mean over patches": patches[:, len(prefix) :].mean(1)}
    return [Heat(name, row.reshape(-1, *grid).cpu()) for name, row in rows.items()]


def rollout_maps(model: Classifier, x: Tensor, targets: Tensor, options: Options) -> list[Heat]:
    """Rollout of every layer's attention; the class plays no part in it."""
    grids: list[Grid] = []

    def layers() -> Iterable[Tensor]:
        for layer in attended_layers(model, x):
            grids.append(layer.grid)
            yield layer.weights

    product = rollout(
        layers(),
        fusion=options.get("rollout.fusion", "mean"),
        identity=options.get("rollout.identity", True),
        discard=options.get("rollout.discard", 0.0),
        prefix=len(prefix_of(model)),
    )
    return read_rows(model, product, grids[0])


def gradient_rollout_maps(model: Classifier, x: Tensor, targets: Tensor, options: Options) -> list[Heat]:
    """Attention times the gradient of the class's logit, what is positive, summed through the layers.

    R = I; for each layer R <- R + E_h[(dA * A)+] R (Chefer et al. 2021, Generic attention-model
    explainability, equations 5 and 6).
    """
    layers = weights_and_gradients(model, x, targets)
    relevance: Tensor | None = None
    for weights, gradients in layers:
        step = (weights * gradients).clamp(min=0).mean(1)
        if relevance is None:
            relevance = torch.eye(step.shape[-1], device=step.device).expand_as(step)
        relevance = relevance + step @ relevance
    assert relevance is not None, "no layers"
    # What a token keeps of itself says nothing about where it looked.
    relevance = relevance - torch.eye(relevance.shape[-1], device=relevance.device)
    return read_rows(model, relevance, _grid(model, x))


def weights_and_gradients(model: Classifier, x: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return (weights, gradient of the target's logit by the weights), each (B, h, N, N), for every layer.

    Fused attention has no weights to differentiate by. The result of a layer is weights times values, so the
    gradient by the weights is the gradient by that result (what enters `proj`) times the values.
    """
    entered: list[tuple[Attention, Tensor, Grid]] = []
    mixed: list[Tensor] = []

    def note_input(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(module, Attention)
        entered.append((module, inputs[0], inputs[1]))

    def note_mixed(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        mixed.append(inputs[0])

    handles = [module.register_forward_pre_hook(note_input) for module in attentions(model)]
    handles += [module.proj.register_forward_pre_hook(note_mixed) for module in attentions(model)]
    try:
        with torch.enable_grad():
            score = target_logits(model, x.detach().requires_grad_(), targets).sum()
    finally:
        for handle in handles:
            handle.remove()
    gradients = torch.autograd.grad(score, mixed)
    results = []
    with torch.no_grad():
        for (module, tokens, grid), gradient in zip(entered, gradients, strict=True):
            value = projected(module, tokens)[2]
            by_head = gradient.float().view(value.transpose(1, 2).shape).transpose(1, 2)
            results.append((weights_of(module, tokens, grid), by_head @ value.transpose(-2, -1)))
    return results


def _grid(model: Classifier, x: Tensor) -> Grid:
    with torch.no_grad():
        return model.features(x[:1], depth=0).grid


def without_rollout(model: Classifier) -> str | None:
    """Say why attention cannot be followed through all layers of a model; None where it can."""
    missing = without_attention(model)
    if missing is not None:
        return missing
    if isinstance(model, Pyramid):
        return "has another grid in each stage, rollout multiplies matrices of one size"
    if not isinstance(model, Isotropic) or len(attentions(model)) != len(model.blocks):
        return "has blocks without attention, rollout would leave out what they mix"
    return None
