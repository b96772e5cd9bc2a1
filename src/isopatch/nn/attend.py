"""softmax(q k^T / sqrt(d) + bias) v, by the road that is fast where the tensors are.

Shapes: query, key, value (B, heads, N, d); bias (heads, N, N) or broadcastable to (B, heads, N, N).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# In bf16 PyTorch's fused CPU attention does not use the CPU's matrix instructions; written as two products
# and a softmax, the same sum trains 1.5-5.7 times as fast (the shorter the sequence, the more) and is never
# slower up to 1024 tokens; in float32 the fused one wins. results/attention_roads.json, `benchmarks`.
# The products keep N x N weights for every head and picture, hence the limit.
PRODUCTS_UP_TO = 1024


def attend(query: Tensor, key: Tensor, value: Tensor, *, bias: Tensor | None, dropout: float) -> Tensor:
    """Mix the values of all tokens (B, heads, N, d).

    dropout: probability with which attention weights are dropped; 0 when evaluating.
    In bf16 on a CPU the scores are rounded to bf16 before the softmax, as in a model without fused attention.
    """
    if by_products(query):
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        if bias is not None:
            scores = scores + bias.to(scores.dtype)
        weights = scores.softmax(-1).to(value.dtype)
        return (F.dropout(weights, dropout) if dropout else weights) @ value
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)


def by_products(query: Tensor) -> bool:
    """Whether `attend` writes the products out for this query."""
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[-2] <= PRODUCTS_UP_TO
