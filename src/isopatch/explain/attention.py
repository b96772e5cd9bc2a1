"""Attention weights of any model that has attention, recomputed outside the hot path.

B pictures, h heads, P prefix tokens, N = P + patches tokens, d channels per head.

The forward pass uses fused attention, which never holds the weights. Here each attention module's input is
noted while the blocks run one by one, and softmax(q k^T / sqrt(d) + bias) is written out from it, in float32
(Dosovitskiy et al. 2020, appendix A, equation 6).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from isopatch.models.external.wrapper import External
from isopatch.nn.classifier import Classifier
from isopatch.nn.layout import Grid
from isopatch.nn.skeleton import Isotropic
from isopatch.nn.token_mixers import Attention

CHUNK_BYTES = 64 * 2**20  # of scores computed at once, beside the weights that are handed out


class Attended(NamedTuple):
    """The attention weights of one layer: rows are queries and sum to one.

    layer: the block's number from 0, counted over all blocks of the model. weights: (B, h, N, N) float32.
    grid: (rows, cols) of the patch tokens, which follow the prefix.
    """

    layer: int
    weights: Tensor
    grid: Grid


def attention_weights(model: Classifier, x: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield (layer, weights (B, h, N, N)) of pictures x (B, C, H, W), from the first layer to the last.

    Nothing is yielded for a model without attention. One layer is held at a time.
    """
    for attended in attended_layers(model, x):
        yield attended.layer, attended.weights


@torch.no_grad()
def attended_layers(model: Classifier, x: Tensor) -> Iterator[Attended]:
    """Yield what `attention_weights` does, with each layer's grid; blocks that have no attention are run."""
    seen: list[tuple[Attention, Tensor, Grid]] = []

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(module, Attention)
        seen.append((module, inputs[0], inputs[1]))

    depths = model.features_by_depth(x)
    layer = -2  # the stem is run first and is no block
    while True:
        # Only while a block runs: between two layers the caller may run the model on other pictures.
        handles = [module.register_forward_pre_hook(note) for module in attentions(model)]
        try:
            step = next(depths, None)
        finally:
            for handle in handles:
                handle.remove()
        if step is None:
            return
        layer += 1
        for module, tokens, grid in seen:
            yield Attended(layer, weights_of(module, tokens, grid), grid)
        seen.clear()


def weights_of(attention: Attention, tokens: Tensor, grid: Grid) -> Tensor:
    """Return the weights (B, h, N, N), float32, that an attention module gives tokens (B, N, C)."""
    query, key, _ = projected(attention, tokens)
    bias = None if attention.relative_bias is None else attention.relative_bias(grid).float()
    batch, heads, count, dim = query.shape
    weights = query.new_empty(batch, heads, count, count)
    step = max(1, CHUNK_BYTES // (4 * heads * count * count))
    for start in range(0, batch, step):
        part = slice(start, start + step)
        scores = (query[part] * dim**-0.5) @ key[part].transpose(-2, -1)
        weights[part] = (scores if bias is None else scores + bias).softmax(-1)
    return weights


def projected(attention: Attention, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value of tokens (B, N, C), each (B, h, N, d) float32."""
    qkv = attention.qkv(tokens).float().unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.unbind(0)
    return query, key, value


def attentions(model: Classifier) -> list[Attention]:
    """Return the attention modules, in the order of the blocks."""
    return [module for module in model.modules() if isinstance(module, Attention)]


def prefix_of(model: Classifier) -> tuple[str, ...]:
    """Return the names of the prefix tokens in their order: "class", "distillation"; none without any."""
    count = model.num_prefix if isinstance(model, Isotropic) else 0
    return ("class", "distillation")[:count]


def without_attention(model: Classifier) -> str | None:
    """Say that a model has no attention, or none that can be read; None where it has."""
    if isinstance(model, External):
        return "is another library's, whose attention is not known here"
    return None if attentions(model) else "has no attention"
