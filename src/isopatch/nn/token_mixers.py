"""Parts that mix tokens: (tokens (B, N, C), grid) -> (B, N, C), or a convolution on the map view."""

from __future__ import annotations

from torch import Tensor, nn

from isopatch.errors import UsageError
from isopatch.nn.attend import attend
from isopatch.nn.checks import divisible, positive, probability
from isopatch.nn.layout import Grid, as_map, as_tokens
from isopatch.nn.relative_bias import RelativeBias


class Attention(nn.Module):
    """Multi-head self-attention: softmax(q k^T / sqrt(d) + bias) v, d = dim / num_heads.

    One linear layer makes q, k and v (in this order, then heads). Dosovitskiy et al. 2020, appendix A.
    dropout: of the attention weights. projection_dropout: of the result.
    relative_bias: added to the attention logits of every picture.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        qkv_bias: bool = True,
        dropout: float = 0.0,
        projection_dropout: float = 0.0,
        relative_bias: RelativeBias | None = None,
    ) -> None:
        """Raise UsageError when the heads do not divide `dim`."""
        super().__init__()
        positive(dim=dim, num_heads=num_heads)
        probability(attention_dropout=dropout, dropout=projection_dropout)
        divisible("dim", dim, "num_heads", num_heads, hint="every head gets the same number of channels")
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.relative_bias = relative_bias
        self.proj = nn.Linear(dim, dim)
        self.projection_dropout = nn.Dropout(projection_dropout)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Attend over all tokens, prefix included."""
        qkv = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)  # each (B, heads, N, d)
        bias = None if self.relative_bias is None else self.relative_bias(grid)
        mixed = attend(query, key, value, bias=bias, dropout=self.dropout if self.training else 0.0)
        result: Tensor = self.projection_dropout(self.proj(mixed.transpose(1, 2).flatten(2)))
        return result


def same_depthwise(
    dim: int, kernel_size: int, *, num_prefix: int = 0, bias: bool = True
) -> tuple[nn.Module, nn.Conv2d]:
    """Build (padding, depthwise convolution) that together keep the size of the map.

    Padding is given as integers, never as "same", which FLOP counters and ONNX do not follow. An even kernel
    needs one more on the right and bottom (PyTorch's "same"), the part the convolution cannot pad itself.
    num_prefix: prefix tokens of the sequence; a convolution has no place for them and raises UsageError.
    """
    positive(dim=dim, kernel_size=kernel_size)
    if num_prefix:
        raise UsageError(
            f"a depthwise convolution over the grid cannot be combined with {num_prefix} prefix token(s): "
            f"use average pooling without class_token"
        )
    padding = nn.Identity() if kernel_size % 2 else nn.ZeroPad2d((0, 1, 0, 1))
    half = (kernel_size - 1) // 2
    return padding, nn.Conv2d(dim, dim, kernel_size, padding=half, groups=dim, bias=bias)


class Depthwise(nn.Module):
    """A depthwise k x k convolution over the grid (ConvMixer's token step), the map's size kept."""

    def __init__(self, dim: int, kernel_size: int, *, num_prefix: int = 0) -> None:
        """kernel_size: odd or even. Raises UsageError with prefix tokens, see `same_depthwise`."""
        super().__init__()
        self.pad, self.conv = same_depthwise(dim, kernel_size, num_prefix=num_prefix)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """Mix places; channels stay apart."""
        return as_tokens(self.conv(self.pad(as_map(tokens, grid))))
