"""Two roads, one sum: attention by products equals PyTorch's fused attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from isopatch.nn.attend import PRODUCTS_UP_TO, attend, by_products


def _inputs(tokens: int, dtype: torch.dtype) -> list[Tensor]:
    draw = torch.Generator().manual_seed(tokens)
    return [
        torch.randn(2, 3, tokens, 32, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
        for _ in range(3)
    ]


def _bias(tokens: int) -> Tensor:
    return torch.randn(3, tokens, tokens, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("tokens", [1, 17, 65, 197])
@pytest.mark.parametrize("with_bias", [False, True])
def test_the_products_are_within_bf16_of_the_exact_sum_and_so_are_the_gradients(
    tokens: int, with_bias: bool
) -> None:
    given = _inputs(tokens, torch.bfloat16)
    exact = [tensor.detach().double().requires_grad_() for tensor in given]
    bias = _bias(tokens) if with_bias else None
    assert by_products(given[0]) and not by_products(exact[0])
    mixed = attend(*given, bias=None if bias is None else bias.bfloat16(), dropout=0.0)
    wanted = F.scaled_dot_product_attention(*exact, attn_mask=bias)
    direction = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    mixed.backward(direction.bfloat16())
    wanted.backward(direction)
    pairs = [(mixed.detach(), wanted.detach()), *zip((x.grad for x in given), (x.grad for x in exact), strict=True)]
    for found, want in pairs:
        assert found.dtype == torch.bfloat16
        if float(want.norm()) > 1e-9:  # one token has no gradient to its query and key
            assert float((found.double() - want).norm() / want.norm()) < 0.02


def test_a_wrong_scale_would_be_seen() -> None:
    given = _inputs(65, torch.bfloat16)
    given = [tensor.detach() for tensor in given]
    wrong = attend(given[0] * 1.1, *given[1:], bias=None, dropout=0.0)
    wanted = F.scaled_dot_product_attention(*(tensor.double() for tensor in given))
    assert float((wrong.double() - wanted).norm() / wanted.norm()) > 0.02


def test_dropout_drops_weights_and_keeps_their_mean() -> None:
    query, key, _ = (tensor.detach() for tensor in _inputs(64, torch.bfloat16))
    torch.manual_seed(0)
    mixed = attend(query, key, torch.ones_like(key), bias=None, dropout=0.5).float()
    assert mixed.std() > 0.05  # without dropout every row sums to one exactly
    assert float(mixed.mean()) == pytest.approx(1.0, abs=0.1)


def test_long_sequences_and_float32_keep_the_fused_road() -> None:
    assert not by_products(torch.empty(1, 1, PRODUCTS_UP_TO + 1, 8, dtype=torch.bfloat16))
    assert by_products(torch.empty(1, 1, PRODUCTS_UP_TO, 8, dtype=torch.bfloat16))
    assert not by_products(torch.empty(1, 1, 16, 8))
    assert not by_products(torch.empty(1, 1, 16, 8, dtype=torch.bfloat16, device="meta"))
