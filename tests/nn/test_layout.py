import pytest
import torch

from isopatch.errors import UsageError
from isopatch.nn.layout import as_map, as_tokens


def test_tokens_and_map_share_memory() -> None:
    tokens = torch.randn(2, 6, 5)
    feature_map = as_map(tokens, (2, 3))
    assert feature_map.shape == (2, 5, 2, 3)
    assert feature_map.is_contiguous(memory_format=torch.channels_last)
    assert feature_map.data_ptr() == tokens.data_ptr()
    back = as_tokens(feature_map)
    assert back.data_ptr() == tokens.data_ptr()
    assert back.is_contiguous()
    assert torch.equal(back, tokens)


def test_rows_come_before_columns() -> None:
    tokens = torch.arange(6.0).reshape(1, 6, 1)
    assert as_map(tokens, (2, 3))[0, 0].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_prefix_tokens_have_no_place_on_the_map() -> None:
    with pytest.raises(UsageError, match=r"7 tokens are not the 2 x 3 patches.*prefix tokens"):
        as_map(torch.randn(2, 7, 5), (2, 3))
