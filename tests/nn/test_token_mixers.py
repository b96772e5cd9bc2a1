import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from isopatch.errors import UsageError
from isopatch.nn.relative_bias import RelativeBias
from isopatch.nn.token_mixers import Attention, same_depthwise


@pytest.mark.parametrize("relative", [False, True])
def test_attention_is_the_formula(relative: bool) -> None:
    dim, heads, grid = 12, 3, (2, 3)
    bias = RelativeBias(grid, heads) if relative else None
    attention = Attention(dim, heads, relative_bias=bias).double().eval()
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    tokens = torch.randn(2, 6, dim, dtype=torch.float64)
    q, k, v = attention.qkv(tokens).chunk(3, dim=-1)
    parts = []
    for head in range(heads):
        part = slice(head * 4, head * 4 + 4)
        scores = q[..., part] @ k[..., part].mT / math.sqrt(4)
        if bias is not None:
            scores = scores + bias(grid)[:, head]
        parts.append(scores.softmax(dim=-1) @ v[..., part])
    expected = attention.proj(torch.cat(parts, dim=-1))
    torch.testing.assert_close(attention(tokens, grid), expected)


def test_attention_without_qkv_bias() -> None:
    assert Attention(8, 2, qkv_bias=False).qkv.bias is None
    assert Attention(8, 2).qkv.bias is not None


def test_attention_dropout_in_training_only() -> None:
    attention = Attention(8, 2, dropout=0.5)
    tokens = torch.randn(2, 6, 8)
    assert torch.equal(attention.eval()(tokens, (2, 3)), attention(tokens, (2, 3)))
    assert not torch.equal(attention.train()(tokens, (2, 3)), attention(tokens, (2, 3)))


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UsageError, match="dim 100 is not divisible by num_heads 3"):
        Attention(100, 3)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 8, 9])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_depthwise_padding_is_torchs_same(kernel: int) -> None:
    pad, depthwise = same_depthwise(4, kernel)
    x = torch.randn(2, 4, 7, 6).contiguous(memory_format=torch.channels_last)
    y = depthwise(pad(x))
    assert y.shape == x.shape
    torch.testing.assert_close(y, F.conv2d(x, depthwise.weight, depthwise.bias, padding="same", groups=4))


def test_even_kernels_pad_one_more_on_the_right_and_bottom() -> None:
    # Negative control of the test above: the other way round is another function.
    pad, depthwise = same_depthwise(1, 4)
    nn.init.normal_(depthwise.weight)
    x = torch.randn(1, 1, 6, 6)
    other = depthwise(F.pad(x, (1, 0, 1, 0)))
    assert other.shape == x.shape
    assert (depthwise(pad(x)) - other).abs().max() > 0.1


def test_convolution_refuses_prefix_tokens() -> None:
    with pytest.raises(UsageError, match=r"depthwise convolution.*cannot be combined with 1 prefix token"):
        same_depthwise(4, 3, num_prefix=1)
