import pytest
import torch

from isopatch.errors import UsageError
from isopatch.nn.head import Head
from isopatch.nn.norms import layer_norm
from isopatch.nn.pool import MeanPool, TokenPool

TOKENS = torch.randn(2, 7, 8, generator=torch.Generator().manual_seed(0))


def test_token_pool_reads_the_normed_prefix() -> None:
    norm = layer_norm(8)
    tokens, features = TokenPool(2, num_prefix=2)(TOKENS, norm)
    torch.testing.assert_close(tokens, norm(TOKENS))
    torch.testing.assert_close(features, norm(TOKENS)[:, :2])


def test_token_pool_refuses_missing_prefix_tokens() -> None:
    with pytest.raises(UsageError, match=r"reads 2 prefix token\(s\), the sequence has 1"):
        TokenPool(2, num_prefix=1)


def test_the_order_of_norm_and_mean_matters() -> None:
    norm = layer_norm(8)
    _, first = MeanPool(num_prefix=1, norm_first=True)(TOKENS, norm)
    tokens, last = MeanPool(num_prefix=1, norm_first=False)(TOKENS, norm)
    torch.testing.assert_close(first, norm(TOKENS)[:, 1:].mean(1, keepdim=True))
    torch.testing.assert_close(last, norm(TOKENS[:, 1:].mean(1, keepdim=True)))
    assert torch.equal(tokens, TOKENS)
    assert (first - last).abs().max() > 0.05


def test_layer_norm_has_the_papers_eps() -> None:
    assert layer_norm(8).eps == 1e-6


def test_pre_logits_is_dense_and_tanh() -> None:
    head = Head(8, 3, pre_logits=True)
    features = torch.randn(2, 8)
    torch.testing.assert_close(head(features), head.linear(torch.tanh(head.pre_logits(features))))
    assert Head(8, 3).pre_logits is None


def test_no_classes_are_refused() -> None:
    with pytest.raises(UsageError, match="num_classes 0"):
        Head(8, 0)
